"""Commands on rows: ``check-data``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smt_ray.cli.arguments import ConfigArguments, split_arguments


def check_data(
    config: ConfigArguments = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="A file for every question that is found.")
    ] = None,
) -> None:
    """Show which test questions are in the training rows, by task."""
    from smt_ray.config.load import load_config

    resolved = load_config(*split_arguments(config))
    from smt_ray.reporting.text.overlaps import print_overlaps
    from smt_ray.run.check_data import check_data as compare_rows

    report = compare_rows(resolved)
    if json_ is not None:
        json_.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    print_overlaps(report)
