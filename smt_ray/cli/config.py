"""Commands on configurations: ``config``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from smt_ray.cli.arguments import ConfigArguments, split_arguments


def config(
    config: ConfigArguments = None,
    schema: Annotated[bool, typer.Option(help="Print the JSON schema of all keys.")] = False,
) -> None:
    """Print a complete configuration, defaults included, or the schema."""
    from smt_ray.config.load import load_config, to_yaml
    from smt_ray.config.run import RunConfig

    if schema:
        print(json.dumps(RunConfig.model_json_schema(), indent=2))
        return
    print(to_yaml(load_config(*split_arguments(config))), end="")
