"""The documents about rows: what became of them on the way to tokens."""

from __future__ import annotations

from typing import Literal

from smt_ray.documents.base import Document


class BadRows(Document):
    """The rows that were left out because they cannot be used, with ``data.bad_rows: skip``."""

    number: int = 0
    first: str | None = None
    """The error of the first one."""


class RowCounts(Document):
    """The rows of one tokenised set."""

    num_rows: int
    num_truncated: int = 0
    num_dropped: int = 0
    """The rows that were longer than ``data.max_length``, or had no token to learn within it."""
    bad: BadRows = BadRows()
    num_rewritten: int = 0
    """The conversations of which only the last turn is learned, because the chat template rewrites
    earlier ones."""
    left_out: dict[str, int] = {}
    """What the chat template does not write -> the number of rows that have it."""
    num_tokens: int = 0

    @property
    def num_given(self) -> int:
        """The number of rows before any was left out."""
        return self.num_rows + self.num_dropped + self.bad.number

    @property
    def dropped_share(self) -> float:
        """The share of rows that are left out, in [0, 1]."""
        return (self.num_dropped + self.bad.number) / self.num_given if self.num_given else 0.0

    @property
    def truncated_share(self) -> float:
        """The share of the kept rows that are cut, in [0, 1]."""
        return self.num_truncated / self.num_rows if self.num_rows else 0.0


class TokensSummary(Document):
    """The summary of the tokens stage."""

    training: RowCounts
    validation: RowCounts | None = None
    prompt: Literal["chat", "clean", "legacy", "published"] = "clean"
    """The form of the prompts."""
    unread: BadRows = BadRows()
    """The rows that could not be read."""
    num_moved: int = 0
    """The rows that are not in training because an identical row is held out."""
