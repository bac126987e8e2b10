"""Which of two ways to train is better, said with an interval: both answered the same rows.

Rows are the same for both and seeds are paired, so their differences vary less than the accuracies
themselves. Intervals are percentiles of a bootstrap that draws seeds and, within each task, test
rows anew; with few seeds they are somewhat too narrow, as any interval is that knows few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Correct = Mapping[str, NDArray[np.bool_]]
"""Task -> (number of seeds, number of rows), whether each row was answered correctly."""

Values = Mapping[str, NDArray[np.float64]]
"""Task -> (number of seeds, number of rows), or what was drawn of them."""

Verdict = Literal["held", "reversed", "not resolved"]

_NUM_RESAMPLES = 2000


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
    """What answers come to; the tasks' intervals and the average's are of the same draws."""
    values = {task: rows.astype(float) for task, rows in correct.items()}
    drawn = _bootstrap(values)
    return Accuracies(
        _average(values, drawn),
        {task: _estimate(rows.mean(), drawn[task]) for task, rows in values.items()},
    )


def paired_difference(better: Correct, worse: Correct) -> Estimate:
    """How much higher the first average accuracy is, in [-1, 1].

    Args:
        better: Of one way to train.
        worse: Of the other, with the same tasks, seeds and rows.
    """
    assert better.keys() == worse.keys()
    values = {task: better[task].astype(float) - worse[task] for task in better}
    return _average(values, _bootstrap(values))


def verdict(difference: Estimate) -> Verdict:
    """Whether a claimed difference is there: its interval lies above 0, below, or on both sides."""
    if difference.low > 0:
        return "held"
    return "reversed" if difference.high < 0 else "not resolved"


def _bootstrap(values: Values) -> Values:
    """Task -> (resamples,), its mean over seeds and rows; the same for the same values."""
    draw = np.random.default_rng(0)
    seeds = _shares(draw, next(iter(values.values())).shape[0])
    return {
        task: np.einsum("rs,sn,rn->r", seeds, of_task, _shares(draw, of_task.shape[1]))
        for task, of_task in values.items()
    }


def _average(values: Values, drawn: Values) -> Estimate:
    """Of the plain mean over the tasks."""
    value = float(np.mean([of_task.mean() for of_task in values.values()]))
    return _estimate(value, np.mean(list(drawn.values()), axis=0))


def _estimate(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(value), float(low), float(high))


def _shares(draw: np.random.Generator, number: int) -> NDArray[np.float64]:
    """(resamples, number): how often each was drawn, as a share of all draws."""
    counts = draw.multinomial(number, np.full(number, 1 / number), size=_NUM_RESAMPLES)
    return counts / number
