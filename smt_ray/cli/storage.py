"""Commands on what a storage keeps: ``runs``, ``diff`` and ``clean``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from smt_ray.cli.arguments import DEFAULT_STORAGE, StorageOption
from smt_ray.cli.completion import complete_runs

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def runs(storage: StorageOption = DEFAULT_STORAGE, json_: JsonOption = False) -> None:
    """List the runs of a storage with their results, the latest first."""
    from smt_ray.artifacts.storage import Storage
    from smt_ray.reporting.text.kept.runs import print_runs
    from smt_ray.run.kept.listing import list_runs

    found = list_runs(Storage(storage))
    if json_:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_runs(found)


def diff(
    a: Annotated[str, typer.Argument(help="A run.", autocompletion=complete_runs)],
    b: Annotated[str, typer.Argument(help="Another run.", autocompletion=complete_runs)],
    storage: StorageOption = DEFAULT_STORAGE,
    json_: JsonOption = False,
) -> None:
    """Show the settings, rows, versions and figures that differ between two runs."""
    from smt_ray.artifacts.storage import Storage
    from smt_ray.reporting.text.kept.difference import print_difference
    from smt_ray.run.kept.difference import compare_runs

    found = compare_runs(Storage(storage), a, b)
    if json_:
        print(json.dumps(found.to_json(), indent=2))
    else:
        print_difference(found)


def clean(
    storage: StorageOption = DEFAULT_STORAGE,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep the checkpoints of finished stages.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="List every file or folder that would be deleted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete what no run needs and checkpoints of finished stages, after showing their size."""
    from smt_ray.artifacts.storage import Storage
    from smt_ray.reporting.text.kept.clean import print_removable
    from smt_ray.reporting.text.memory import format_bytes
    from smt_ray.run.kept.clean import clean as delete
    from smt_ray.run.kept.clean import look_for_removable

    place = Storage(storage)
    found = look_for_removable(place, checkpoints=not keep_checkpoints)
    print_removable(place.root, [(e.reason, e.place, e.num_bytes) for e in found], verbose=verbose)
    if not found:
        return
    if not yes:
        typer.confirm("Delete them?", abort=True)
    print(f"freed {format_bytes(delete(place, found, checkpoints=not keep_checkpoints))}")
