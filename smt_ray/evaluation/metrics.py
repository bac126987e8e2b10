"""What predictions add up to: pure Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

_Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def accuracy(num_correct: int, num_rows: int) -> float:
    """The share of rows that are correct, in [0, 1]; NaN of no rows."""
    return num_correct / num_rows if num_rows else math.nan


def wilson_interval(num_correct: int, num_rows: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95% by default.

    Unlike the normal approximation it stays within [0, 1] and keeps its width at 0 and at 1
    (Wilson 1927, "Probable inference, the law of succession, and statistical inference").

    Returns:
        Lower and upper bound; (0, 1) of no rows.
    """
    return wilson_bounds(num_correct / num_rows, num_rows, z) if num_rows else (0.0, 1.0)


def wilson_bounds(share: float, number: float, z: float) -> tuple[float, float]:
    """The same of a share of so many independent answers, which need not be a whole number."""
    spread = z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def throughput(predictions: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, float]:
    """How fast rows were answered.

    Args:
        predictions: All records of a task.
        seconds: From the first to the last of them, over all processes.

    Returns:
        ``seconds``, ``rows_per_second`` and ``tokens_per_second``: tokens of the prompts, and
        those that were generated or that all candidates have.
    """
    kinds = ("num_prompt_tokens", "num_new_tokens", "num_candidate_tokens")
    num_tokens = sum(prediction.get(kind, 0) for prediction in predictions for kind in kinds)
    return {
        "seconds": seconds,
        "rows_per_second": len(predictions) / seconds,
        "tokens_per_second": num_tokens / seconds,
    }


def majority_share(expected: Sequence[Hashable]) -> float:
    """The accuracy of always giving the most frequent expected answer; NaN of no rows."""
    return max(Counter(expected).values(), default=0) / len(expected) if expected else math.nan
