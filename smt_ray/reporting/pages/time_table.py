"""Where the time went, for a page: seconds as numbers and as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TimeLine:
    """One line of the table.

    Attributes:
        name: What took the time.
        seconds: How much; None where it is not known.
        detail: What else there is to say.
        reused: Whether it was found finished, so that the time was spent before.
    """

    name: str
    seconds: float | None
    detail: str = ""
    reused: bool = False


def time_table(details: str, lines: Sequence[TimeLine]) -> dict[str, Any] | None:
    """What the template shows; None where there is nothing.

    Args:
        details: Head of the lines' details.
        lines: From above.
    """
    if not lines:
        return None
    longest = max(line.seconds or 0.0 for line in lines) or 1.0
    return {
        "details": details,
        "rows": [{"line": line, "share": (line.seconds or 0.0) / longest} for line in lines],
        "total": math.fsum(line.seconds or 0.0 for line in lines),
        "any_reused": any(line.reused for line in lines),
    }
