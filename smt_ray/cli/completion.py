"""What a shell completes after an option: stages, and the names of runs in a local storage."""

from __future__ import annotations

import os

import typer


def complete_stages(incomplete: str) -> list[str]:
    """The stages that begin with a text."""
    from smt_ray.documents.stages import UNTIL

    return [stage for stage in UNTIL if stage.startswith(incomplete)]


def complete_gpu_types(incomplete: str) -> list[str]:
    """The types of GPU that begin with a text."""
    from smt_ray.planning.time.gpus import GPU_TYPES

    return [name for name in GPU_TYPES if name.startswith(incomplete)]


def complete_kinds(incomplete: str) -> list[str]:
    """The kinds of files that begin with a text."""
    from smt_ray.config.schema import FILE_KINDS

    return [kind for kind in FILE_KINDS if kind.startswith(incomplete)]


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """The runs of the chosen storage that begin with a text; none if it is not a local folder."""
    from smt_ray.artifacts.layout import RUNS_FOLDER
    from smt_ray.cli.arguments import DEFAULT_STORAGE

    storage = ctx.params.get("storage") or DEFAULT_STORAGE
    try:
        names = os.listdir(os.path.join(os.path.expanduser(storage), RUNS_FOLDER))
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))
