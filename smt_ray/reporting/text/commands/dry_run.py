"""What a run would do, before it is started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from smt_ray.documents.rows import TokensSummary
from smt_ray.reporting.text.console import rich_table, show
from smt_ray.reporting.text.rows import row_warnings, rows_text
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import stage_text

if TYPE_CHECKING:
    from rich.console import Console

_WORK = {
    "reuse": "is finished and would be reused",
    "compute": "would be computed",
    "skip": "is not needed",
}


def print_stages(
    stages: Sequence[tuple[str, str, str]], rows: TokensSummary, unchecked: Sequence[str]
) -> None:
    """Prints the stages of a run that was not started, and what was found about its rows.

    Args:
        stages: The key, the folder and the work of each stage.
        unchecked: The checks that were left out, in words.
    """
    cells = Cells(
        ("stage", "folder", ""),
        tuple((stage_text(key), name, _WORK[work]) for key, name, work in stages),
        0,
    )
    lines = [f"rows: {rows_text(rows)}", *(f"warning: {text}" for text in row_warnings(rows))]
    lines += [f"not checked: {text}" for text in unchecked]
    lines.append("dry run: all checks passed, and nothing was computed or written")

    def render(console: Console) -> None:
        console.print(rich_table(cells))
        for line in lines:
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    show(render)
