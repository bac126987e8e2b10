"""The claims of a comparison and their answers, each with a drawing of its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smt_ray.documents.comparison import ClaimResult, Interval, TableResult
from smt_ray.reporting.text.comparison import difference_parts, relation

WIDTH, HEIGHT = 160, 20
"""The size of the drawing of an interval, in its own units."""
_MARGIN = 8  # free space on both sides, for the marks


@dataclass(frozen=True)
class ClaimRow:
    """A claim.

    Attributes:
        anchor: The anchor of the table in the page.
        relation: The words between the two cells.
        difference: The difference and its interval as text; nothing if it is not known.
        places: The positions of the value and the interval's ends in the drawing; None for no
            drawing.
    """

    table: str
    anchor: str
    claim: ClaimResult
    relation: str
    difference: tuple[str, ...]
    places: Interval | None


@dataclass(frozen=True)
class ClaimTable:
    """All claims, whose intervals share one scale.

    Attributes:
        zero: The position of a difference of 0 in a drawing.
        ends: The ends of the scale as text; None if no claim has a drawing.
    """

    rows: Sequence[ClaimRow]
    size: tuple[int, int]
    zero: float
    ends: tuple[str, str] | None

    @property
    def counts(self) -> Counter[str]:
        """Verdict -> the number of its claims."""
        return Counter(row.claim.verdict for row in self.rows)

    @property
    def has_sources(self) -> bool:
        """Whether a claim names its source."""
        return any(row.claim.source for row in self.rows)


def claim_table(tables: Mapping[str, TableResult], anchors: Mapping[str, str]) -> ClaimTable | None:
    """The claims of some tables; None without claims.

    Args:
        anchors: Table -> its anchor in the page.
    """
    claims = [(name, claim) for name, table in tables.items() for claim in table.claims]
    if not claims:
        return None
    drawn = [difference for _, claim in claims if (difference := _in_points(claim))]
    scale = _Scale(
        min((difference.low for difference in drawn), default=0.0),
        max((difference.high for difference in drawn), default=0.0),
    )
    rows = [
        ClaimRow(
            name, anchors[name], claim, relation(claim), difference_parts(claim), scale.draw(claim)
        )
        for name, claim in claims
    ]
    return ClaimTable(rows, (WIDTH, HEIGHT), scale.place(0.0), scale.ends() if drawn else None)


class _Scale:
    """The scale of all drawings, from the lowest end of an interval to the highest, with 0."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = min(0.0, low), max(0.0, high)

    def place(self, value: float) -> float:
        """The distance of a value from the left side."""
        span = self.high - self.low or 1.0
        return round(_MARGIN + (WIDTH - 2 * _MARGIN) * (value - self.low) / span, 1)

    def draw(self, claim: ClaimResult) -> Interval | None:
        difference = _in_points(claim)
        if difference is None:
            return None
        value, low, high = map(self.place, (difference.value, difference.low, difference.high))
        return Interval(value=value, low=low, high=high)

    def ends(self) -> tuple[str, str]:
        """Both ends in points."""
        low, high = (f"{100 * end:+.0f}" if end else "0" for end in (self.low, self.high))
        return low, high


def _in_points(claim: ClaimResult) -> Interval | None:
    """The difference of a claim, unless it is a ratio, which has no place on the scale."""
    return claim.difference if claim.unit == "points" else None
