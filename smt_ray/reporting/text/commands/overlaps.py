"""The table of ``smt-ray check-data``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from smt_ray.documents.overlaps import Duplicates, OverlapReport, TaskOverlap
from smt_ray.reporting.text.console import rich_table, show
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import MISSING

if TYPE_CHECKING:
    from rich.console import Console

_TASKS = ("task", "test rows", "in training", "share", "same answer", "first test row")
_SETS = ("rows of", "that are also in", "rows", "identical", "same question", "first")


def print_overlaps(report: OverlapReport) -> None:
    """Prints the tables; without colours or wrapping if the output is not a terminal."""
    show(partial(_render, report))


def _render(report: OverlapReport, console: Console) -> None:
    from rich.text import Text

    console.print(Text("Rows that are there twice", style="bold"))
    sets = tuple(map(_set, report.duplicates))
    console.print(rich_table(Cells(_SETS, sets, 3), _style))
    if not report.tasks:
        return
    title = f"Test questions that are also in the {report.num_training_rows:,} training rows"
    console.print(Text(title, style="bold"))
    rows = tuple(_row(name, task) for name, task in report.tasks.items())
    console.print(rich_table(Cells(_TASKS, rows, len(_TASKS) - 1), _style))
    if total := sum(task.num_found for task in report.tasks.values()):
        note = f"accuracy on these {total:,} questions does not measure generalisation"
        console.print(Text(f"  {note}"))


def _set(found: Duplicates) -> tuple[str, ...]:
    return (
        found.rows,
        "the same" if found.rows == found.within else found.within,
        f"{found.num_rows:,}",
        f"{found.num_identical:,}",
        f"{found.num_same_question:,}",
        found.first or MISSING,
    )


def _row(name: str, task: TaskOverlap) -> tuple[str, ...]:
    return (
        name,
        f"{task.num_rows:,}",
        f"{task.num_found:,}",
        f"{100 * task.num_found / task.num_rows:.1f}%",
        f"{task.num_same_answer:,}",
        f"{task.found[0].index:,}" if task.found else MISSING,
    )


def _style(text: str) -> str:
    return "red" if text.endswith("%") and text != "0.0%" else ""
