"""Answers of one or two models: side by side on a terminal, one after the other elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from smt_ray.reporting.text.visible import visible

Shown = tuple[str, str, str]
"""The name of a model, its answer, and a note about the answer or ""."""


def print_answers(question: str, answers: Sequence[Shown]) -> None:
    """Prints the answers to a question. The question is repeated where nobody typed it."""
    console = Console()
    if console.is_terminal:
        console.print(_table(answers))
        return
    texts = [f"{name}: {_with_note(text, note)}" for name, text, note in answers]
    lines = [f"question: {visible(question)}", *texts]
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write("\n".join([*lines, "", ""]).encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _table(answers: Sequence[Shown]) -> Table:
    table = Table(show_lines=True, expand=True)
    for name, *_ in answers:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*(Text(_with_note(text, note)) for _, text, note in answers))
    return table


def _with_note(text: str, note: str) -> str:
    shown = visible(text)
    return f"{shown} [{note}]" if note else shown
