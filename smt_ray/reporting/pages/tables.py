"""The tables of runs and of times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunRow:
    """A run of a :class:`RunsTable`.

    Attributes:
        texts: Column -> text: settings and measurements of the run.
        settings: All other settings, in one line.
        status: The status in one or two words, such as "finished".
        error: The reason of a failure; "" without one.
        page: The link to the page of the run; "" without one.
    """

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    seconds: float | None = None
    status: str = "finished"
    error: str = ""
    page: str = ""


@dataclass(frozen=True)
class RunsTable:
    """The table of all runs of a comparison or a search.

    Attributes:
        number_columns: The columns that are aligned right.
    """

    rows: Sequence[RunRow]
    number_columns: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """The columns in which a run has a text."""
        return list(
            dict.fromkeys(name for row in self.rows for name, text in row.texts.items() if text)
        )

    @property
    def has_settings(self) -> bool:
        """Whether the table has a column of other settings."""
        return any(row.settings for row in self.rows)

    @property
    def has_pages(self) -> bool:
        """Whether a name is a link."""
        return any(row.page for row in self.rows)


@dataclass(frozen=True)
class TimeRow:
    """A row of a :class:`TimeTable`.

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
    """A table of seconds, as numbers and as bars.

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
