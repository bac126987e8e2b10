"""Commands on the configuration of one run: ``run``, ``plan``, ``preview`` and others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smt_ray.cli.arguments import ConfigArguments, announced_imports, split_arguments
from smt_ray.cli.completion import complete_gpu_types, complete_kinds, complete_stages
from smt_ray.cli.errors import check_choice

if TYPE_CHECKING:
    from smt_ray.config.run import RunConfig
    from smt_ray.documents.base import Document
    from smt_ray.documents.stages import Until

GpusOption = Annotated[
    int | None,
    typer.Option(min=1, max=100_000, help="Number of training ranks; by default the config's."),
]
PlanOption = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="A file for the plan.")
]


def run(
    config: ConfigArguments = None,
    until: Annotated[
        str,
        typer.Option(
            help="Last stage: warmup, selection, training or evaluation.",
            autocompletion=complete_stages,
        ),
    ] = "evaluation",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, plan the memory, and stop.")
    ] = False,
) -> None:
    """Warm up, select, train and evaluate.

    Finished stages are reused, and an interrupted run resumes.
    """
    from smt_ray.config.load import load_config
    from smt_ray.documents.stages import UNTIL

    last = check_choice("--until", until, UNTIL)
    resolved = load_config(*split_arguments(config))
    if dry_run:
        _check_run(resolved, last)
        return
    with announced_imports(f"run {resolved.name} in {resolved.storage}"):
        from smt_ray.run import flow
    from smt_ray.reporting.text.run import print_table

    print_table(flow.run(resolved, last))


def _check_run(config: RunConfig, until: Until) -> None:
    with announced_imports(f"dry run of {config.name} in {config.storage}"):
        from smt_ray.run.dry_run import dry_run as check
    from smt_ray.reporting.text.commands.dry_run import print_stages
    from smt_ray.reporting.text.memory import print_memory

    found = check(config, until)
    if found.memory is not None:
        print_memory(found.memory)
    stages = [(stage.key, stage.name, stage.work) for stage in found.stages]
    print_stages(stages, found.rows, found.unchecked)


def plan(
    config: ConfigArguments = None,
    gpus: GpusOption = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Memory of each GPU, such as 24GiB: does the run fit?")
    ] = None,
    gpu_type: Annotated[
        str | None,
        typer.Option(
            help="Type of GPU, such as h100-80gb: how long does the run take?",
            autocompletion=complete_gpu_types,
        ),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="Number of GPUs of a node.")] = 8,
    network_gbps: Annotated[
        float, typer.Option(min=0.001, help="Gbit/s that a node receives from other nodes.")
    ] = 400,
    mfu: Annotated[
        float, typer.Option(min=0.001, max=1, help="Assumed share of the GPU's peak FLOP/s.")
    ] = 0.4,
    json_: PlanOption = None,
) -> None:
    """Show the memory and the time that a run needs, without its weights, and whether it fits."""
    from smt_ray.config.load import load_config

    resolved = load_config(*split_arguments(config))
    from smt_ray.planning.report import plan_memory
    from smt_ray.planning.settings import parse_memory
    from smt_ray.planning.time.cluster import Cluster
    from smt_ray.planning.time.gpus import find_gpu_type
    from smt_ray.reporting.text.memory import print_memory

    available = None if gpu_memory is None else parse_memory(gpu_memory)
    number, cluster = gpus or resolved.resources.num_workers, None
    if gpu_type is not None:
        cluster = Cluster(find_gpu_type(gpu_type), number, gpus_per_node, network_gbps, mfu)
    report = plan_memory(resolved, gpus, available, cluster)
    _write_json(report, json_)
    print_memory(report)


def check_data(
    config: ConfigArguments = None,
    json_: Annotated[
        Path | None,
        typer.Option("--json", dir_okay=False, help="A file for every question that is found."),
    ] = None,
) -> None:
    """Show rows that are there twice, and which test questions are in the training rows."""
    from smt_ray.config.load import load_config

    resolved = load_config(*split_arguments(config))
    from smt_ray.reporting.text.commands.overlaps import print_overlaps
    from smt_ray.run.check_data import check_data as compare_rows

    report = compare_rows(resolved)
    _write_json(report, json_)
    print_overlaps(report)


def _write_json(document: Document, file: Path | None) -> None:
    """Writes a document to the file of ``--json``, if there is one."""
    if file is not None:
        file.write_text(json.dumps(document.to_json(), indent=2) + "\n", encoding="utf-8")


def preview(
    config: ConfigArguments = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Number of rows.")] = 3,
) -> None:
    """Show rows as the model sees them, with what is learned marked, from their very tokens."""
    from smt_ray.config.load import load_config

    resolved = load_config(*split_arguments(config))
    with announced_imports(f"rows of {resolved.name}"):
        from smt_ray.run.preview import preview as first_rows
    from smt_ray.reporting.text.commands.preview import print_preview

    print_preview(first_rows(resolved, number))


def config(
    config: ConfigArguments = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema, which explains every key.")
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            help="The kind of file: run, search or comparison; by default, the file's keys say it.",
            autocompletion=complete_kinds,
        ),
    ] = None,
) -> None:
    """Print a complete run, search or comparison, defaults included, or the schema of its file."""
    from smt_ray.config.load import read_values, to_yaml
    from smt_ray.config.schema import FILE_KINDS, file_schema, kind_of, load_file

    chosen = None if kind is None else check_choice("--kind", kind, FILE_KINDS)
    path, overrides = split_arguments(config)
    if schema:
        chosen = chosen or ("run" if path is None else kind_of(read_values(path)))
        print(json.dumps(file_schema(chosen), indent=2))
        return
    print(to_yaml(load_file(path, overrides, chosen)), end="")
