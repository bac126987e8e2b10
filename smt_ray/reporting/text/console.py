"""Tables on a terminal, and as plain text where the output is not a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PLAIN_WIDTH = 1000  # wide enough that nothing is wrapped in plain text


def show(render: Callable[[Console], None]) -> None:
    """Prints what ``render`` prints; as plain text if the output is not a terminal."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        render(console)
    else:
        encoding = sys.stdout.encoding or "utf-8"  # the log of a job may be ASCII
        sys.stdout.write(_plain_text(render).encode(encoding, "replace").decode(encoding))


def _plain_text(render: Callable[[Console], None]) -> str:
    """What ``render`` prints, without colours or wrapping."""
    from rich.console import Console

    buffer = io.StringIO()
    render(Console(file=buffer, width=_PLAIN_WIDTH, force_terminal=False, no_color=True))
    return "".join(f"{visible(line.rstrip())}\n" for line in buffer.getvalue().split("\n")[:-1])


def rich_table(cells: Cells, style: Callable[[str], str] = lambda _: "") -> Table:
    """A table with a rule below its head, and a rule above a row named "average".

    Args:
        style: A function from the text of a cell to its style, in rich's words.
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
        table.add_row(*(Text(visible(text), style=style(text), overflow="fold") for text in row))
    return table


def facts_grid(facts: list[tuple[str, str]]) -> Table:
    """(name, text) pairs, one below the other."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 0, 0, 2), pad_edge=True)
    for name, text in facts:
        grid.add_row(Text(name, style="bold"), Text(visible(text), overflow="fold"))
    return grid
