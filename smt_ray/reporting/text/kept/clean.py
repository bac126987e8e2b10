"""What a clean can delete, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from smt_ray.reporting.text.console import rich_table, show
from smt_ray.reporting.text.memory import format_bytes
from smt_ray.reporting.text.tables import Cells

if TYPE_CHECKING:
    from rich.console import Console


def print_removable(
    storage: str, found: Sequence[tuple[str, str, int]], *, verbose: bool = False
) -> None:
    """Prints the number and the bytes of what can be deleted, by its reason.

    Args:
        found: The reason, the place and the bytes of each file or folder.
        verbose: Whether every place is printed, too.
    """
    if not found:
        print(f"nothing to delete in {storage}")
        return

    def render(console: Console) -> None:
        console.print(rich_table(reason_cells(found)))
        for _, place, size in found if verbose else ():
            line = f"  {format_bytes(size):>12}  {place}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        total = format_bytes(sum(size for *_, size in found))
        console.print(f"  {total} in {storage}", soft_wrap=True, markup=False, highlight=False)

    show(render)


def reason_cells(found: Sequence[tuple[str, str, int]]) -> Cells:
    """The number and the bytes of what can be deleted, by its reason."""
    rows = []
    for reason in dict.fromkeys(reason for reason, *_ in found):
        sizes = [size for other, _, size in found if other == reason]
        rows.append((str(reason), f"{len(sizes)}", format_bytes(sum(sizes))))
    return Cells(("can be deleted", "number", "size"), tuple(rows), 2)
