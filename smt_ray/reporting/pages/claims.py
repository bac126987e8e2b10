"""A comparison's claims and their answers, for a page: words, numbers, and an interval each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from smt_ray.reporting.text.comparison import difference_parts, relation

WIDTH, HEIGHT = 160, 20
"""Of an interval's drawing, in its own units."""
_EDGE = 8  # left free on both sides, for the marks

Claim = Mapping[str, Any]


def answered_claims(tables: Mapping[str, Any], anchors: Mapping[str, str]) -> dict[str, Any] | None:
    """What the template shows of all claims; None where nothing is claimed.

    Args:
        tables: A comparison's.
        anchors: Table -> where it stands in the page.
    """
    claims = [(name, claim) for name, table in tables.items() for claim in table["claims"]]
    if not claims:
        return None
    ends = [
        100 * claim["difference"][end]
        for _, claim in claims
        if _in_points(claim)
        for end in ("low", "high")
    ]
    scale = _Scale(min([0.0, *ends]), max([0.0, *ends]))
    return {
        "rows": [_row(name, claim, anchors, scale) for name, claim in claims],
        "counts": Counter(claim["verdict"] for _, claim in claims),
        "view": (WIDTH, HEIGHT),
        "zero": scale.place(0.0),
        "ends": scale.ends() if ends else None,
        "sourced": any(claim["source"] for _, claim in claims),
    }


class _Scale:
    """Where differences stand in a drawing.

    Args:
        low, high: The least and the greatest of all, in points.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def place(self, value: float) -> float:
        """From the left, in the drawing's units."""
        span = self.high - self.low or 1.0
        return round(_EDGE + (WIDTH - 2 * _EDGE) * (value - self.low) / span, 1)

    def ends(self) -> list[str]:
        """The least and the greatest as text."""
        return [f"{end:+.0f}" if end else "0" for end in (self.low, self.high)]


def _in_points(claim: Claim) -> bool:
    """Whether it has a place on the one scale: a ratio has none."""
    return bool(claim.get("difference")) and claim.get("unit") != "times"


def _row(name: str, claim: Claim, anchors: Mapping[str, str], scale: _Scale) -> dict[str, Any]:
    difference = claim["difference"] if _in_points(claim) else None
    return {
        "table": name,
        "anchor": anchors[name],
        "better": claim["better"],
        "relation": relation(claim),
        "worse": claim["worse"],
        "reason": claim.get("reason", ""),
        "source": claim["source"],
        "verdict": claim["verdict"],
        "difference": difference_parts(claim),
        "places": difference
        and {key: scale.place(100 * difference[key]) for key in ("value", "low", "high")},
    }
