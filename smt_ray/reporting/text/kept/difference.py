"""The difference of two runs as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from smt_ray.documents.kept.runs import RunDifference
from smt_ray.reporting.text.console import rich_table, show
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import MISSING, value_text

if TYPE_CHECKING:
    from rich.console import Console

_TITLES = {
    "settings": "settings that change results",
    "execution": "settings that change no result",
    "rows": "rows, by their fingerprints",
    "versions": "versions",
    "figures": "figures",
}


def print_difference(found: RunDifference) -> None:
    """Prints the tables; without colours or wrapping if the output is not a terminal."""
    tables = list(difference_cells(found))
    if not tables:
        print(f"{found.a} and {found.b} do not differ")
        return

    def render(console: Console) -> None:
        for cells in tables:
            console.print(rich_table(cells))

    show(render)


def difference_cells(found: RunDifference) -> Iterator[Cells]:
    """A table for each part that differs; figures have their change, too."""
    for part, title in _TITLES.items():
        pairs = getattr(found, part)
        has_change = part == "figures"
        rows = tuple(
            (key, _text(a), _text(b), *([_change(a, b)] if has_change else []))
            for key, (a, b) in pairs.items()
        )
        if rows:
            head = (title, found.a, found.b, *(["change"] if has_change else []))
            yield Cells(head, rows, len(head) - 1 if has_change else 0)


def _text(value: Any) -> str:
    return MISSING if value is None else value_text(value)


def _change(a: Any, b: Any) -> str:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return f"{b - a:+.4g}" if numbers else MISSING
