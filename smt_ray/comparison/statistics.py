"""Accuracies and differences of accuracies with 95% intervals.

Two ways to train are compared on the same test rows with paired seeds, so their difference varies
less than their accuracies. An average over seeds and rows is uncertain in two ways: other seeds
would train other models, and other questions could have been asked. The two variances are estimated
separately and added; both contain the interaction of seed and row, so it is subtracted once.
Student's t distribution accounts for the small number of seeds. Its degrees of freedom are
Satterthwaite's (1946, "An approximate distribution of estimates of variance components"). With
three seeds, an interval can reach 4.3 standard errors to each side, instead of 2 with many seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smt_ray.documents.comparison import Interval, Verdict
from smt_ray.evaluation.metrics import wilson_bounds

Correct = Mapping[str, NDArray[np.bool_]]
"""Task -> (number of seeds, number of rows), whether each row was answered correctly."""

Values = Mapping[str, NDArray[np.float64]]
"""Task -> (number of seeds, number of rows)."""

_UPPER = 0.975  # the upper quantile of a two-sided 95% interval


class Accuracies(NamedTuple):
    """Accuracies over seeds and rows, in [0, 1].

    Attributes:
        average: The plain mean over the tasks.
    """

    average: Interval
    tasks: dict[str, Interval]


class _Mean(NamedTuple):
    """A mean over tasks, its variance and the degrees of freedom of the variance."""

    value: float
    variance: float
    freedom: float


def accuracies(correct: Correct) -> Accuracies:
    """The accuracies of a cell.

    With one seed, the intervals describe the sampling of rows only: another seed may lie outside.
    """
    values = {task: rows.astype(float) for task, rows in correct.items()}
    return Accuracies(_share(values), {task: _share({task: rows}) for task, rows in values.items()})


def paired_difference(better: Correct, worse: Correct) -> Interval:
    """The average accuracy of one way to train minus that of another one, in [-1, 1].

    Both have the same tasks, seeds and rows.

    If all rows differ in the same way (for example, not at all), the interval is as wide as
    Wilson's for a share of zero in as many rows.
    """
    assert better.keys() == worse.keys()
    values = {task: better[task].astype(float) - worse[task] for task in better}
    mean = _mean(values)
    quantile = _quantile(mean.freedom)
    if mean.variance:
        reach = quantile * math.sqrt(mean.variance)
    else:
        reach = wilson_bounds(0.0, _num_rows(values), quantile)[1]
    low, high = max(-1.0, mean.value - reach), min(1.0, mean.value + reach)
    return Interval(value=mean.value, low=low, high=high)


def mean_over_seeds(values: Sequence[float]) -> Interval | None:
    """The mean of one number for each seed; None for one seed, which shows no variance."""
    if len(values) < 2:
        return None
    value = float(np.mean(values))
    reach = _quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(value=value, low=value - reach, high=value + reach)


def verdict(difference: Interval) -> Verdict:
    """The answer to a claimed difference: whether its interval is above 0, below 0 or around it."""
    if difference.low > 0:
        return "held"
    return "reversed" if difference.high < 0 else "not resolved"


def _share(values: Values) -> Interval:
    """The average of zeros and ones.

    The interval is Wilson's for the number of independent answers that would have this variance. It
    stays in [0, 1], and has a width even if all answers are equal.
    """
    value, variance, freedom = _mean(values)
    number = value * (1 - value) / variance if variance else _num_rows(values)
    low, high = wilson_bounds(value, number, _quantile(freedom))
    return Interval(value=value, low=low, high=high)


def _num_rows(values: Values) -> int:
    return sum(rows.shape[1] for rows in values.values())


def _mean(values: Values) -> _Mean:
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
    return _Mean(float(by_seed.mean()), variance, variance**2 / spread if spread else math.inf)


def _quantile(freedom: float) -> float:
    """The quantile of Student's t, or of the normal distribution for infinite freedom."""
    from scipy.special import ndtri, stdtrit

    return float(stdtrit(freedom, _UPPER) if math.isfinite(freedom) else ndtri(_UPPER))
