"""What several commands share: their arguments, and the line that they begin with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from smt_ray.imports import large_imports

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


@contextmanager
def announced_imports(work: str) -> Iterator[None]:
    """Prints the name of the work before the imports of the body.

    They take seconds, and minutes on a busy machine.
    """
    print(work, file=sys.stderr, flush=True)
    with large_imports():
        yield
