"""Rows as the model sees them, for ``smt-ray preview``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from smt_ray.documents.rows import RowCounts
from smt_ray.reporting.text.console import show
from smt_ray.reporting.text.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

BEGIN, END = "\u27e6", "\u27e7"
"""The marks around what is learned: white square brackets."""


@dataclass(frozen=True)
class PreviewedRow:
    """A row as text.

    Attributes:
        place: The file or dataset of the row, and the position in it.
        pieces: The parts of the text, each with whether its tokens are learned.
        num_tokens: The number of tokens.
        num_learned: The number of tokens that are learned.
        counts: What became of the row; None if it cannot be used.
        error: Why the row cannot be used.
    """

    place: str
    pieces: Sequence[tuple[str, bool]] = ()
    num_tokens: int = 0
    num_learned: int = 0
    counts: RowCounts | None = None
    error: str | None = None


@dataclass(frozen=True)
class Preview:
    """The first training rows.

    Attributes:
        form: The form of the prompts.
    """

    form: str
    num_rows: int
    rows: Sequence[PreviewedRow]


def print_preview(preview: Preview) -> None:
    """Prints the rows; what is learned is marked, and green on a terminal."""
    show(partial(_render, preview))


def _render(preview: Preview, console: Console) -> None:
    from rich.text import Text

    title = (
        f"the first {len(preview.rows)} of {preview.num_rows:,} training rows, prompt form"
        f" {preview.form}; what is learned stands between {BEGIN} and {END}"
    )
    console.print(Text(title, style="bold"), soft_wrap=True)
    for row in preview.rows:
        console.print(Text(f"\n{visible(_head(row))}", style="cyan"), soft_wrap=True)
        parts = [
            (f"{BEGIN}{visible(text)}{END}", "green") if learned else (visible(text), "")
            for text, learned in row.pieces
        ]
        console.print(Text.assemble(*parts), soft_wrap=True)


def _head(row: PreviewedRow) -> str:
    """The line above a row."""
    if row.counts is None:
        return f"{row.place}: cannot be used ({row.error})"
    notes = [
        f"{row.num_tokens:,} tokens, {row.num_learned:,} learned",
        "truncated" if row.counts.num_truncated else "",
        "earlier turns are not learned, because the chat template rewrites them"
        if row.counts.num_rewritten
        else "",
        *(f"the chat template does not write the {what}" for what in row.counts.left_out),
    ]
    return f"{row.place}: {'; '.join(filter(None, notes))}"
