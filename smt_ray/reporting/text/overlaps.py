"""The table of ``smt-ray check-data``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from smt_ray.reporting.text.console import Cells, plain_text, rich_table, show

if TYPE_CHECKING:
    from rich.console import Console

_HEAD = ("task", "test rows", "trained on", "share", "with its answer", "first test row")


def print_overlaps(checked: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints what :func:`smt_ray.run.check_data.check_data` found."""
    show(partial(_render, checked), file or sys.stdout)


def overlaps_text(checked: Mapping[str, Any]) -> str:
    """The same as plain text."""
    return plain_text(partial(_render, checked))


def _render(checked: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    title = f"Test questions that stand in the {checked['num_training_rows']:,} training rows"
    console.print(Text(title, style="bold"))
    rows = tuple(_row(name, task) for name, task in checked["tasks"].items())
    console.print(rich_table(Cells(_HEAD, rows, len(_HEAD) - 1), _style))
    total = sum(task["num_found"] for task in checked["tasks"].values())
    if total:
        console.print(
            Text(f"  {total:,} questions were trained on: their accuracy is no test of what is new")
        )


def _row(name: str, task: Mapping[str, Any]) -> tuple[str, ...]:
    found = task["found"]
    return (
        name,
        f"{task['num_rows']:,}",
        f"{task['num_found']:,}",
        f"{100 * task['num_found'] / task['num_rows']:.1f}%",
        f"{task['num_same_answer']:,}",
        f"{found[0]['index']:,}" if found else "-",
    )


def _style(text: str) -> str:
    return "red" if text.endswith("%") and text != "0.0%" else ""
