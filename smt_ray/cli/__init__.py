"""The command line. It imports nothing heavy until a command needs it."""

from __future__ import annotations

import atexit
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from smt_ray.errors import UserError


class _Commands(TyperGroup):
    """Commands that end as :func:`exit_with` says; Typer would keep an interrupt to itself."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that the arguments name."""
        return exit_with(lambda: super(_Commands, self).invoke(ctx))


app = typer.Typer(
    cls=_Commands,
    name="smt-ray",
    help="Sparse Matrix Tuning of large language models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY.SUB=VALUE]...",
        help="A YAML file (default: the built-in quickstart) and overrides.",
        show_default=False,
    ),
]
StorageOption = Annotated[
    str, typer.Option("--storage", help="The storage that holds the run: a folder or a URI.")
]
_DEFAULT_STORAGE = "smt_ray_storage"


@app.command()
def run(
    config: ConfigArguments = None,
    until: Annotated[
        str, typer.Option(help="Last stage: warmup, selection, training or evaluation.")
    ] = "evaluation",
) -> None:
    """Warm up, select, train, evaluate. Finished stages are skipped; a cut-off run resumes."""
    from smt_ray.config.load import load_config

    resolved = load_config(*_split(config))
    # Said before the imports, which take seconds, and minutes on a busy machine.
    print(f"run {resolved.name} in {resolved.storage}", file=sys.stderr, flush=True)
    from smt_ray.imports import large_imports

    with large_imports():
        from smt_ray.run import flow
    from smt_ray.reporting.text.run import print_table

    if until not in flow.UNTIL:
        raise UserError("--until", f"must be one of {', '.join(flow.UNTIL)}", got=until)
    print_table(flow.run(resolved, until))


@app.command()
def plan(
    config: ConfigArguments = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Training ranks; by default the config's.")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="Of each GPU, such as 24GiB: says whether the run fits.")
    ] = None,
) -> None:
    """Say what a run needs on each GPU, without its weights, and whether it fits."""
    from smt_ray.config.load import load_config

    resolved = load_config(*_split(config))
    from smt_ray.planning.report import plan_memory
    from smt_ray.planning.settings import parse_memory
    from smt_ray.reporting.text.memory import print_memory

    available = None if gpu_memory is None else parse_memory(gpu_memory)
    print_memory(plan_memory(resolved, gpus, available))


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A comparison's YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY.SUB=VALUE]...",
            help="Overrides; keys of the run begin with run., such as run.storage=DIR.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a grid of methods, budgets and seeds; write its tables. Finished runs are skipped.

    Where runs fail, the others go on and all is written; the exit code is 1, and the same command
    tries the failed ones again.
    """
    from smt_ray.config.comparison import load_comparison

    resolved = load_comparison(config, list(overrides or []))
    print(f"comparison {resolved.name}", file=sys.stderr, flush=True)
    from smt_ray.imports import large_imports

    with large_imports():
        from smt_ray.comparison.flow import compare as run_comparison
        from smt_ray.comparison.record import failure_text
    from smt_ray.reporting.text.comparison import to_markdown

    results = run_comparison(resolved)
    print(to_markdown(results))
    if failures := failure_text(resolved, results):
        print(f"error: {failures}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A search's YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY.SUB=VALUE]...",
            help="Overrides; keys of the run begin with run., such as run.storage=DIR.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new folder for the winner as a plain model.")
    ] = None,
) -> None:
    """Search settings by validation loss; evaluate the winner. A cut-off search resumes."""
    from smt_ray.config.search import load_search

    resolved = load_search(config, list(overrides or []))
    print(f"search {resolved.name}", file=sys.stderr, flush=True)
    from smt_ray.imports import large_imports

    with large_imports():
        from smt_ray.search.flow import search
    from smt_ray.reporting.text.run import print_table
    from smt_ray.reporting.text.search import print_trials

    results = search(resolved, out)
    print_trials(results["trials"])
    print_table(results["winner"])
    print(results["best_yaml"], end="")


@app.command()
def evaluate(
    task: Annotated[list[str], typer.Option(help="Task or suite; may be given again.")],
    run: Annotated[str | None, typer.Option("--run", help="Evaluate a run's tuned model.")] = None,
    model: Annotated[str | None, typer.Option(help="A model folder or hub name instead.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter folder to put on --model.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder with dataset/<task>/test.json, or hub.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="generate, or likelihood: the likeliest of the answers on offer.")
    ] = "generate",
    storage: StorageOption = _DEFAULT_STORAGE,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Config override.")
    ] = None,
) -> None:
    """Evaluate a run's tuned model, or any model with or without an adapter."""
    from smt_ray.run.evaluate import evaluate_model, evaluate_run

    if (run is None) == (model is None):
        raise UserError("evaluate", "needs exactly one of --run and --model")
    if run is not None:
        if adapter is not None:
            raise UserError("--adapter", "goes with --model; a run has its own", got=adapter)
        results = evaluate_run(storage, run, task, data, set_ or [], protocol)
    else:
        assert model is not None
        results = evaluate_model(storage, model, adapter, task, data, set_ or [], protocol)
    print(json.dumps(results, indent=2))


@app.command("check-data")
def check_data(
    config: ConfigArguments = None,
    json_: Annotated[
        Path | None, typer.Option("--json", help="File for every question found.")
    ] = None,
) -> None:
    """Say which test questions are in the training rows, by task."""
    from smt_ray.config.load import load_config

    resolved = load_config(*_split(config))
    from smt_ray.reporting.text.overlaps import print_overlaps
    from smt_ray.run.check_data import check_data as compare

    checked = compare(resolved)
    if json_ is not None:
        json_.write_text(json.dumps(checked, indent=2) + "\n", encoding="utf-8")
    print_overlaps(checked)


@app.command()
def merge(
    run: Annotated[str, typer.Option("--run", help="The run whose tuned model is written.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the plain model.")],
    storage: StorageOption = _DEFAULT_STORAGE,
) -> None:
    """Write a run's tuned model as a plain transformers model."""
    from smt_ray.artifacts.storage import Storage
    from smt_ray.run.merge import merge_run

    print(merge_run(Storage(storage), run, out))


@app.command()
def log(
    run: Annotated[str, typer.Argument(help="The run to send to MLflow.")],
    storage: StorageOption = _DEFAULT_STORAGE,
) -> None:
    """Send what is on disk of a run to MLflow, such as after the server was away."""
    from smt_ray.run.log import log_run

    print(log_run(storage, run))


@app.command()
def report(
    name: Annotated[
        str, typer.Argument(help="The run, comparison or search whose page is written.")
    ],
    storage: StorageOption = _DEFAULT_STORAGE,
) -> None:
    """Write the report.html of a run, a comparison or a search anew, from what is stored of it."""
    from smt_ray.cli.reports import write_report_of

    print(write_report_of(storage, name))


@app.command()
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
    print(to_yaml(load_config(*_split(config))), end="")


def _split(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """The config file, if the first argument is no override, and the overrides."""
    arguments = list(arguments or [])
    path = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    return path, arguments


def main(*arguments: str) -> None:
    """The console script; the pipelines give the command's name.

    Args:
        arguments: What the command line's own arguments come after.
    """
    # Nothing that is left at the end is garbage worth a look: with torch loaded, that is seconds.
    atexit.register(gc.freeze)
    app([*arguments, *sys.argv[1:]], prog_name="smt-ray")


def exit_with(command: Callable[[], Any]) -> Any:
    """Runs a command; a user's error becomes one line on standard error and exit code 2.

    An interrupt becomes one line too, and exit code 130.
    """
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        print("error:", " ".join(str(user_error).splitlines()), file=sys.stderr)
        sys.exit(2)


def find_user_error(error: BaseException) -> UserError | None:
    """The user's error behind an exception, which Ray may have wrapped on its way."""
    cause = getattr(error, "cause", None)
    for candidate in (cause, error):
        if type(candidate) is UserError:
            return candidate
    for candidate in (cause, error.__cause__):
        if isinstance(candidate, BaseException) and (found := find_user_error(candidate)):
            return found
    return None
