"""Commands of one run: ``run`` and ``plan``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from smt_ray.cli.arguments import ConfigArguments, split_arguments
from smt_ray.errors import UserError
from smt_ray.imports import large_imports


def run(
    config: ConfigArguments = None,
    until: Annotated[
        str, typer.Option(help="Last stage: warmup, selection, training or evaluation.")
    ] = "evaluation",
) -> None:
    """Warm up, select, train and evaluate.

    Finished stages are reused, and an interrupted run resumes.
    """
    from smt_ray.config.load import load_config

    resolved = load_config(*split_arguments(config))
    # Printed before the imports, which take seconds, and minutes on a busy machine.
    print(f"run {resolved.name} in {resolved.storage}", file=sys.stderr, flush=True)
    with large_imports():
        from smt_ray.run import flow
    from smt_ray.reporting.text.run import print_table
    from smt_ray.stages.plan import UNTIL

    last = next((stage for stage in UNTIL if stage == until), None)
    if last is None:
        raise UserError("--until", f"must be one of {', '.join(UNTIL)}", got=until)
    print_table(flow.run(resolved, last))


def plan(
    config: ConfigArguments = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Number of training ranks; by default the config's.")
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(help="Memory of each GPU, such as 24GiB, to say whether the run fits."),
    ] = None,
) -> None:
    """Show the memory that a run needs on each GPU, without its weights, and whether it fits."""
    from smt_ray.config.load import load_config

    resolved = load_config(*split_arguments(config))
    from smt_ray.planning.report import plan_memory
    from smt_ray.planning.settings import parse_memory
    from smt_ray.reporting.text.memory import print_memory

    available = None if gpu_memory is None else parse_memory(gpu_memory)
    print_memory(plan_memory(resolved, gpus, available))
