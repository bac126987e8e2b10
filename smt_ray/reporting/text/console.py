"""Tables on a terminal, and the same as plain text where the output is none."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PLAIN_WIDTH = 1000  # where the output is no terminal, nothing is wrapped


@dataclass(frozen=True)
class Cells:
    """A table as text: a column of names, ``num_right`` that align right, and the rest."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_right: int


def show(render: Callable[[Console], None], file: TextIO) -> None:
    """Prints what ``render`` prints; plainly where ``file`` is no terminal."""
    from rich.console import Console

    console = Console(file=file)
    if console.is_terminal:
        render(console)
    else:
        encoding = getattr(file, "encoding", None) or "utf-8"  # a job's log may be plain ASCII
        file.write(plain_text(render).encode(encoding, "replace").decode(encoding))


def plain_text(render: Callable[[Console], None]) -> str:
    """What ``render`` prints, without colours or wrapping."""
    from rich.console import Console

    buffer = io.StringIO()
    render(Console(file=buffer, width=_PLAIN_WIDTH, force_terminal=False, no_color=True))
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def rich_table(cells: Cells, style: Callable[[str], str] = lambda _: "") -> Table:
    """A table with a rule under its head, and one above a row named average.

    Args:
        cells: Its text.
        style: Rich's style for a cell's text.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=True)
    for column, name in enumerate(cells.head):
        table.add_column(Text(name), justify="right" if 1 <= column <= cells.num_right else "left")
    for row in cells.rows:
        if row[0] == "average":
            table.add_section()
        table.add_row(*(Text(text, style=style(text), overflow="fold") for text in row))
    return table


def facts_grid(facts: list[tuple[str, str]]) -> Table:
    """(what, text) pairs below each other."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    for what, text in facts:
        grid.add_row(Text(what, style="bold"), Text(text, overflow="fold"))
    return grid
