"""The predictions of a task in numbers: accuracy, its interval, and throughput."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from smt_ray.documents.prediction import Prediction
from smt_ray.documents.run import Reading
from smt_ray.documents.stages import TaskSummary
from smt_ray.errors import UserError

_Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def summarise(predictions: Sequence[Prediction], seconds: float | None = None) -> TaskSummary:
    """The predictions of a task in numbers; their order does not matter.

    Args:
        predictions: The predictions of all rows.
        seconds: The time from the first to the last of them, over all processes; None to leave the
            throughput out. Its tokens are those of the prompts, and those that were generated or
            that all candidates have.

    Raises:
        UserError: There are no predictions.
    """
    if not predictions:
        raise UserError("predictions", "must hold at least one row", got=0)
    num_rows = len(predictions)
    published = _reading(
        num_rows,
        num_correct=sum(p.correct for p in predictions),
        num_unread=sum(p.extracted is None for p in predictions),
    )
    return TaskSummary(
        num_rows=num_rows,
        num_correct=published.num_correct,
        num_unread=published.num_unread,
        accuracy=published.accuracy,
        interval=wilson_interval(published.num_correct, num_rows),
        majority_share=majority_share([p.expected for p in predictions]),
        corrected=_corrected(predictions),
        seconds=seconds,
        rows_per_second=num_rows / seconds if seconds else None,
        tokens_per_second=sum(map(_num_tokens, predictions)) / seconds if seconds else None,
    )


def _corrected(predictions: Sequence[Prediction]) -> Reading | None:
    """Accuracy by the corrected rule, if it read all outputs."""
    if not all(p.has_corrected for p in predictions):
        return None
    return _reading(
        len(predictions),
        num_correct=sum(p.corrected == p.expected for p in predictions),
        num_unread=sum(p.corrected is None for p in predictions),
    )


def _reading(num_rows: int, *, num_correct: int, num_unread: int) -> Reading:
    return Reading(
        num_correct=num_correct,
        num_unread=num_unread,
        accuracy=accuracy(num_correct, num_rows),
        interval=wilson_interval(num_correct, num_rows),
    )


def _num_tokens(prediction: Prediction) -> int:
    new = prediction.num_new_tokens + prediction.num_candidate_tokens
    return prediction.num_prompt_tokens + new


def accuracy(num_correct: int, num_rows: int) -> float:
    """The share of rows that are correct, in [0, 1]; NaN without rows."""
    return num_correct / num_rows if num_rows else math.nan


def wilson_interval(num_correct: int, num_rows: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95% by default.

    Unlike the normal approximation it stays within [0, 1] and keeps its width at 0 and at 1
    (Wilson 1927, "Probable inference, the law of succession, and statistical inference").

    Returns:
        The lower and the upper bound; (0, 1) without rows.
    """
    return wilson_bounds(num_correct / num_rows, num_rows, z) if num_rows else (0.0, 1.0)


def wilson_bounds(share: float, number: float, z: float) -> tuple[float, float]:
    """Wilson's interval for a share of ``number`` independent answers, which may be fractional."""
    spread = z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def majority_share(expected: Sequence[Hashable]) -> float:
    """The accuracy of always giving the most frequent expected answer; NaN without rows."""
    return max(Counter(expected).values(), default=0) / len(expected) if expected else math.nan
