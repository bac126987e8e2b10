"""A table as text, and its Markdown and CSV. :mod:`.console` shows it on a terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Cells:
    """A table as text; the first column has the names of the rows.

    Attributes:
        rows: The rows, each with a text for every column.
        num_right: The number of columns after the first one that are aligned right.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_right: int


def markdown_table(cells: Cells) -> str:
    """The table as Markdown."""
    num_left = len(cells.head) - 1 - cells.num_right
    rule = ("---", *["---:"] * cells.num_right, *["---"] * num_left)
    lines = [cells.head, rule, *cells.rows]
    return "\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines)


def write_csv(cells: Cells) -> str:
    """The table as CSV. A spreadsheet takes no cell for a formula."""
    text = io.StringIO()
    rows = [[_no_formula(cell) for cell in row] for row in (cells.head, *cells.rows)]
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _no_formula(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would compute; numbers stay."""
    if not cell.startswith(_FORMULA) or cell == "-":
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def escape(text: str) -> str:
    """The text as it is written in a Markdown table or list: one line, its bars escaped."""
    return text.replace("|", "\\|").replace("\n", " ")
