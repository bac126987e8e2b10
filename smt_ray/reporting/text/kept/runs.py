"""The runs of a storage as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from smt_ray.documents.kept.runs import RunList, RunSummary
from smt_ray.reporting.text.console import rich_table, show
from smt_ray.reporting.text.memory import format_bytes
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import MISSING, number_text

if TYPE_CHECKING:
    from rich.console import Console

_HEAD = ("run", "base", "tuned", "loss", "size", "status", "method", "model", "data", "started")


def print_runs(runs: RunList) -> None:
    """Prints the table; without colours or wrapping if the output is not a terminal."""
    if not runs.runs:
        print(f"no runs in {runs.storage}")
        return
    table = rich_table(run_cells(runs.runs), style=_style)

    def render(console: Console) -> None:
        console.print(table)
        for line in _notes(runs):
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    show(render)


def run_cells(runs: Sequence[RunSummary]) -> Cells:
    """Each run as a row."""
    rows = tuple(
        (
            run.name,
            number_text(run.base_accuracy, "{:.1f}", 100),
            number_text(run.accuracy, "{:.1f}", 100),
            number_text(run.validation_loss, "{:.4f}"),
            format_bytes(run.num_bytes),
            (run.status or MISSING).lower(),
            run.method or MISSING,
            _short(run.model),
            ", ".join(map(_short, run.data)) or MISSING,
            _time(run.started_ms),
        )
        for run in runs
    )
    return Cells(_HEAD, rows, 4)


def _notes(runs: RunList) -> list[str]:
    number = len(runs.runs)
    return [
        f"  {number} run{'s' if number != 1 else ''} in {runs.storage}, together"
        f" {format_bytes(runs.num_bytes)}; runs share stages",
        "  base, tuned: average accuracy over the tasks in percent; loss: the last validation loss",
        *(f"  {run.name}: {run.problem}" for run in runs.runs if run.problem),
    ]


def _short(place: str | None) -> str:
    """The end of a path; hub names and the names of built-in things stay whole."""
    if not place:
        return MISSING
    return PurePath(place).name if place.startswith(("/", ".", "~")) else place


def _time(milliseconds: int | None) -> str:
    if milliseconds is None:
        return MISSING
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(milliseconds / 1000))


def _style(text: str) -> str:
    colours = {"finished": "green", "running": "cyan", "failed": "red", "damaged": "red"}
    return colours.get(text, "")
