"""Which of two ways to train is better, said with an interval: both answered the same rows.

Rows are the same for both and seeds are paired, so their differences vary less than the accuracies
themselves. An average over seeds and rows is uncertain by both: another seed would have trained
another model, other questions would have been asked. The two variances are estimated apart and
added (what only a seed and a row together explain is in both, and counted once); Student's t, by
Satterthwaite's degrees of freedom (1946, "An approximate distribution of estimates of variance
components"), allows for how few seeds there are: where three of them make the variance, an
interval reaches 4.3 standard errors and not 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smt_ray.evaluation.metrics import wilson_bounds

Correct = Mapping[str, NDArray[np.bool_]]
"""Task -> (number of seeds, number of rows), whether each row was answered correctly."""

Values = Mapping[str, NDArray[np.float64]]
"""Task -> (number of seeds, number of rows)."""

Verdict = Literal["held", "reversed", "not resolved"]

_UPPER = 0.975  # quantile: two-sided 95%


class Estimate(NamedTuple):
    """A value with its 95% interval.

    Attributes:
        value: What was measured.
        low, high: The interval's ends.
    """

    value: float
    low: float
    high: float


class Accuracies(NamedTuple):
    """Accuracies over seeds and rows, in [0, 1].

    Attributes:
        average: Their plain mean over the tasks.
        tasks: Each task's.
    """

    average: Estimate
    tasks: dict[str, Estimate]


def accuracies(correct: Correct) -> Accuracies:
    """What answers come to.

    Of one seed, the intervals know of the rows alone: another seed may lie outside.
    """
    values = {task: rows.astype(float) for task, rows in correct.items()}
    return Accuracies(_share(values), {task: _share({task: rows}) for task, rows in values.items()})


def paired_difference(better: Correct, worse: Correct) -> Estimate:
    """How much higher the first average accuracy is, in [-1, 1].

    Where every answer differs alike (none does, say), the interval is as wide as Wilson's for a
    share that was never seen in as many rows.

    Args:
        better: Of one way to train.
        worse: Of the other, with the same tasks, seeds and rows.
    """
    assert better.keys() == worse.keys()
    values = {task: better[task].astype(float) - worse[task] for task in better}
    value, variance, freedom = _mean(values)
    quantile = _quantile(freedom)
    if variance:
        reach = quantile * math.sqrt(variance)
    else:
        reach = wilson_bounds(0.0, _num_rows(values), quantile)[1]
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach))


def mean_over_seeds(values: Sequence[float]) -> Estimate | None:
    """Of a number that each seed has one of; None of a single seed, which tells of no other."""
    if len(values) < 2:
        return None
    value = float(np.mean(values))
    reach = _quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(value, value - reach, value + reach)


def verdict(difference: Estimate) -> Verdict:
    """Whether a claimed difference is there: its interval lies above 0, below, or on both sides."""
    if difference.low > 0:
        return "held"
    return "reversed" if difference.high < 0 else "not resolved"


def _share(values: Values) -> Estimate:
    """The average of zeros and ones.

    Wilson's interval of as many independent answers as would vary as much: it stays in [0, 1], and
    has a width where all answers are alike.
    """
    value, variance, freedom = _mean(values)
    number = value * (1 - value) / variance if variance else _num_rows(values)
    return Estimate(value, *wilson_bounds(value, number, _quantile(freedom)))


def _num_rows(values: Values) -> int:
    return sum(rows.shape[1] for rows in values.values())


def _mean(values: Values) -> tuple[float, float, float]:
    """The plain mean over tasks, its variance, and that variance's degrees of freedom."""
    num_seeds = next(iter(values.values())).shape[0]
    weight = 1 / len(values) ** 2
    by_seed = np.mean([of_task.mean(axis=1) for of_task in values.values()], axis=0)
    seeds = float(by_seed.var(ddof=1)) / num_seeds if num_seeds > 1 else 0.0
    rows, both = [], 0.0
    for of_task in values.values():
        num_rows = of_task.shape[1]
        by_row = of_task.mean(axis=0)
        rows.append(weight * float(by_row.var(ddof=1)) / num_rows if num_rows > 1 else 0.0)
        if num_seeds > 1 and num_rows > 1:
            left = of_task - by_row - of_task.mean(axis=1, keepdims=True) + of_task.mean()
            freedom = (num_seeds - 1) * (num_rows - 1)
            both += weight * float((left**2).sum()) / freedom / of_task.size
    variance = max(seeds, sum(rows), seeds + sum(rows) - both)
    spread = sum(
        part**2 / (of_task.shape[1] - 1)
        for part, of_task in zip(rows, values.values(), strict=True)
        if part
    ) + (seeds**2 / (num_seeds - 1) if seeds else 0.0)
    return float(by_seed.mean()), variance, variance**2 / spread if spread else math.inf


def _quantile(freedom: float) -> float:
    """Of Student's t; the normal distribution's where freedom is infinite."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(freedom, _UPPER) if math.isfinite(freedom) else ndtri(_UPPER))
