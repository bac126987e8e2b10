"""The application: all commands, and the console script."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import smt_ray
from smt_ray.cli.chat import chat
from smt_ray.cli.errors import exit_with
from smt_ray.cli.groups import compare, tune
from smt_ray.cli.results import evaluate, log, merge, report
from smt_ray.cli.run import check_data, config, plan, preview, run
from smt_ray.cli.starter import init
from smt_ray.cli.storage import clean, diff, runs

_RESUMING = ("run", "compare", "tune")
"""The commands that resume if they are given again."""


class _Commands(TyperGroup):
    """Commands that end through :func:`exit_with`; Typer would handle interrupts differently."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that the arguments name."""
        return exit_with(
            lambda: super(_Commands, self).invoke(ctx),
            resumes=lambda: ctx.invoked_subcommand in _RESUMING,
        )


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"smt-ray {smt_ray.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="smt-ray",
    help="Sparse Matrix Tuning of large language models on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


_COMMANDS = {
    "Before a run": (init, config, plan, preview, check_data),
    "Runs": (run, compare, tune),
    "After a run": (evaluate, chat, merge, report, log),
    "Storage": (runs, diff, clean),
}
for group, commands in _COMMANDS.items():
    for command in commands:
        name = command.__name__.replace("_", "-")
        app.command(name, rich_help_panel=group)(command)


def main(*arguments: str) -> None:
    """Runs the command line; the pipelines give the name of the command, which comes first."""
    # Skips the garbage collection at exit, which takes seconds once torch is loaded.
    atexit.register(gc.freeze)
    app([*arguments, *sys.argv[1:]], prog_name="smt-ray")
