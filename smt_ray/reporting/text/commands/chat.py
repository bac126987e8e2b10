"""Answers of one or two models: side by side on a terminal, one after the other elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

Shown = tuple[str, str, str]
"""The name of a model, its answer, and a note about the answer or ""."""


def print_answers(question: str, answers: Sequence[Shown]) -> None:
    """Prints the answers to a question. The question is repeated where nobody typed it."""
    console = Console()
    if console.is_terminal:
        console.print(_table(answers))
        return
    lines = [f"question: {question}", *(f"{name}: {_with_note(t, n)}" for name, t, n in answers)]
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
    return f"{text} [{note}]" if note else text
