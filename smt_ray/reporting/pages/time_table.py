"""A table of seconds, as numbers and as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeRow:
    """A row of the table.

    Attributes:
        name: What took the time, such as a stage.
        detail: The text of the last column.
        reused: Whether an earlier run had spent the time.
    """

    name: str
    seconds: float | None
    detail: str = ""
    reused: bool = False


@dataclass(frozen=True)
class TimeTable:
    """The table.

    Attributes:
        detail_head: The head of the last column.
        rows: The rows; there is at least one.
    """

    detail_head: str
    rows: Sequence[TimeRow]

    @property
    def total(self) -> float:
        """The sum of the known times."""
        return math.fsum(row.seconds or 0.0 for row in self.rows)

    @property
    def any_reused(self) -> bool:
        """Whether a row needs the note about reuse."""
        return any(row.reused for row in self.rows)

    def share(self, row: TimeRow) -> float:
        """The time of a row as a fraction of the longest one."""
        longest = max(row.seconds or 0.0 for row in self.rows)
        return (row.seconds or 0.0) / (longest or 1.0)
