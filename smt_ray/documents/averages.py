"""Averages over tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(
    values: Sequence[float | None], weights: Sequence[float | None] | None = None
) -> float | None:
    """The plain average of the tasks (the paper's AVG), or the average weighted by rows.

    Returns:
        None if a task has no value: an average over some of the tasks would be compared with an
        average over all of them.
    """
    weights = [1.0] * len(values) if weights is None else weights
    if not values or None in values or None in weights:
        return None
    pairs = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None and w]
    return math.fsum(v * w for v, w in pairs) / math.fsum(w for _, w in pairs)
