"""Commands on finished runs: ``evaluate``, ``merge``, ``log`` and ``report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smt_ray.cli.arguments import DEFAULT_STORAGE, StorageOption
from smt_ray.cli.completion import complete_runs
from smt_ray.errors import UserError

_OPTIONS = {"evaluation.tasks": "--task", "data.dir": "--data", "storage": "--storage"}
"""Key of the config -> the option of ``evaluate`` that sets it."""


def evaluate(
    task: Annotated[list[str], typer.Option(help="A task or suite; may be repeated.")],
    run: Annotated[
        str | None,
        typer.Option(
            "--run", help="The run whose tuned model is evaluated.", autocompletion=complete_runs
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model folder, GGUF file or hub name, instead of a run."),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="The folder of an adapter for --model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A folder with dataset/<task>/test.json, or hub.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="generate, or likelihood for the most likely candidate.")
    ] = "generate",
    storage: StorageOption = DEFAULT_STORAGE,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A config override.")
    ] = None,
) -> None:
    """Evaluate a run's tuned model, or any model with or without an adapter."""
    from smt_ray.run.evaluate import evaluate_model, evaluate_run

    if (run is None) == (model is None):
        raise UserError("evaluate", "needs exactly one of --run and --model")
    if run is not None and adapter is not None:
        raise UserError("--adapter", "needs --model; a run has its own adapter", got=adapter)
    try:
        if run is not None:
            results = evaluate_run(storage, run, task, data, set_ or [], protocol)
        elif model is not None:
            results = evaluate_model(storage, model, adapter, task, data, set_ or [], protocol)
    except UserError as error:
        raise error.renamed(_OPTIONS) from None
    print(json.dumps(results.to_json(), indent=2))


def merge(
    run: Annotated[
        str,
        typer.Option(
            "--run", help="The run whose tuned model is written.", autocompletion=complete_runs
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the plain model.")],
    gguf: Annotated[
        str | None, typer.Option(help="Also write a GGUF file for llama.cpp: f16 or q8_0.")
    ] = None,
    gguf_converter: Annotated[
        Path | None,
        typer.Option(help="llama.cpp's convert_hf_to_gguf.py; by default the one on PATH."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a run's tuned model as a plain transformers model with a model card."""
    from smt_ray.run.export.gguf import find_converter

    if gguf is None and gguf_converter is not None:
        raise UserError("--gguf-converter", "needs --gguf", got=str(gguf_converter))
    export = None if gguf is None else find_converter(gguf, gguf_converter)
    from smt_ray.artifacts.storage import Storage
    from smt_ray.run.export.merge import merge_run

    print(merge_run(Storage(storage), run, out, export))


def log(
    run: Annotated[
        str, typer.Argument(help="The run to send to MLflow.", autocompletion=complete_runs)
    ],
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Send a stored run to MLflow, for example if the server could not be reached before."""
    from smt_ray.run.log import log_run

    print(log_run(storage, run))


def report(
    name: Annotated[str, typer.Argument(help="The name of the run, comparison or search.")],
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write the report.html of a run, a comparison or a search again, from its storage."""
    from smt_ray.cli.reports import write_report_of

    print(write_report_of(storage, name))
