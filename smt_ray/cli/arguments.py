"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY.SUB=VALUE]...",
        help="A YAML file (default: the built-in quickstart) and overrides.",
        show_default=False,
    ),
]
ComparisonFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A comparison's YAML file.")]
SearchFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A search's YAML file.")]
RunOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.SUB=VALUE]...",
        help="Overrides; keys of the run begin with run., such as run.storage=DIR.",
        show_default=False,
    ),
]
StorageOption = Annotated[
    str, typer.Option("--storage", help="The storage that holds the run: a folder or a URI.")
]
DEFAULT_STORAGE = "smt_ray_storage"


def split_arguments(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """The config file (None if the first argument is an override) and the overrides."""
    arguments = list(arguments or [])
    path = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    return path, arguments
