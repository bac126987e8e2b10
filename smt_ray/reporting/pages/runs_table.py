"""The table of all runs of a comparison or a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RunRow:
    """A run.

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
    """The table.

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
