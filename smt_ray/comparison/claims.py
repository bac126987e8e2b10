"""The claims of a table, answered by the measurements of its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from smt_ray.comparison.measured import Measured
from smt_ray.comparison.statistics import mean_over_seeds, paired_difference, verdict
from smt_ray.config.comparison import Cell, TableConfig
from smt_ray.documents.comparison import ClaimResult, Interval, Verdict

FAILED = "a run failed"
ONE_SEED = "one seed shows no variance"
_NOT_MEASURED = "it was not measured"


class _Answer(NamedTuple):
    """The answer to a claim; the reason says why there is no difference."""

    verdict: Verdict
    difference: Interval | None = None
    reason: str = ""


def answer_claims(table: TableConfig, measured: Mapping[Cell, Measured]) -> list[ClaimResult]:
    """Answers the claims of a table; cells with a failed run have no measurements."""
    is_speed = table.columns == "speed"
    answer = _faster if is_speed else _larger_share if table.columns == "projections" else _better
    results = []
    for claim in table.claims:
        better, worse = claim.cells
        found = answer(better, worse, measured)
        results.append(
            ClaimResult(
                better=_name(better),
                worse=_name(worse),
                source=claim.source,
                unit="times" if is_speed else "points",
                verdict=found.verdict,
                difference=found.difference,
                reason=found.reason,
            )
        )
    return results


def _name(cell: Cell) -> str:
    row, column = cell
    return f"{row} ({column})" if column else row


def _better(better: Cell, worse: Cell, measured: Mapping[Cell, Measured]) -> _Answer:
    """Compares average accuracies on the same questions, seed by seed."""
    if not {better, worse} <= measured.keys():
        return _unresolved(FAILED)
    one, other = measured[better].correct, measured[worse].correct
    if not one or not other:
        return _unresolved(_NOT_MEASURED)
    return _answer(paired_difference(one, other))


def _faster(better: Cell, worse: Cell, measured: Mapping[Cell, Measured]) -> _Answer:
    """Compares seconds a step: the logarithm of their ratio is averaged over seeds."""
    if not {better, worse} <= measured.keys():
        return _unresolved(FAILED)
    one, other = measured[better].step_seconds, measured[worse].step_seconds
    if not one or not other:
        return _unresolved(_NOT_MEASURED)
    logs = mean_over_seeds([math.log(slow / fast) for fast, slow in zip(one, other, strict=True)])
    if logs is None:
        return _unresolved(ONE_SEED)
    value, low, high = (math.exp(log) for log in (logs.value, logs.low, logs.high))
    return _Answer(verdict(logs), Interval(value=value, low=low, high=high))


def _larger_share(better: Cell, worse: Cell, measured: Mapping[Cell, Measured]) -> _Answer:
    """Compares the shares of the selected blocks that two projections got."""
    found = []
    for row, projection in (better, worse):
        if (row, "") not in measured:
            return _unresolved(FAILED)
        shares = measured[row, ""].shares
        if not shares or projection not in shares[0]:
            return _unresolved(f"{row} has no {projection}")
        found.append([of_seed[projection] for of_seed in shares])
    difference = mean_over_seeds([one - other for one, other in zip(*found, strict=True)])
    return _answer(difference) if difference else _unresolved(ONE_SEED)


def _answer(difference: Interval) -> _Answer:
    return _Answer(verdict(difference), difference)


def _unresolved(reason: str) -> _Answer:
    return _Answer("not resolved", reason=reason)
