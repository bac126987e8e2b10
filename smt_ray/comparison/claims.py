"""A comparison's claims, answered by what the cells' runs came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from smt_ray.comparison.statistics import (
    Correct,
    Estimate,
    mean_over_seeds,
    paired_difference,
    verdict,
)
from smt_ray.config.comparison import Cell, TableConfig

FAILED = "a run failed"
ONE_SEED = "one seed tells of no other"
_NOT_MEASURED = "it was not measured"


class Measured(NamedTuple):
    """What a cell's runs came to, one a seed; None where it was not measured.

    Attributes:
        correct: Which test rows were answered correctly.
        step_seconds: Each seed's median.
        shares: Each seed's, in [0, 1]: projection -> share of the chosen blocks.
    """

    correct: Correct | None = None
    step_seconds: list[float] | None = None
    shares: list[dict[str, float]] | None = None


def answer_claims(
    table: TableConfig, measured: Mapping[tuple[str, str], Measured]
) -> list[dict[str, Any]]:
    """What became of a table's claims; see :mod:`smt_ray.reporting.text.comparison`.

    Args:
        table: The table.
        measured: Row and column -> its cell, of those whose runs are all done.
    """
    answer = {"speed": _faster, "projections": _larger_share}.get(str(table.columns), _better)
    return [
        {
            "better": _name(claim.cells[0]),
            "worse": _name(claim.cells[1]),
            "source": claim.source,
            **answer(*claim.cells, measured),
        }
        for claim in table.claims
    ]


def _name(cell: Cell) -> str:
    row, column = cell
    return f"{row} ({column})" if column else row


def _better(better: Cell, worse: Cell, measured: Mapping[Cell, Measured]) -> dict[str, Any]:
    """By average accuracy: the same questions, seed by seed."""
    if not {better, worse} <= measured.keys():
        return _open(FAILED)
    one, other = measured[better].correct, measured[worse].correct
    if not one or not other:
        return _open(_NOT_MEASURED)
    return _answered(paired_difference(one, other))


def _faster(better: Cell, worse: Cell, measured: Mapping[Cell, Measured]) -> dict[str, Any]:
    """By seconds a step: their ratio, whose logarithm is averaged over seeds."""
    if not {better, worse} <= measured.keys():
        return _open(FAILED, "times")
    one, other = measured[better].step_seconds, measured[worse].step_seconds
    if not one or not other:
        return _open(_NOT_MEASURED, "times")
    ratios = [math.log(slow / fast) for fast, slow in zip(one, other, strict=True)]
    found = mean_over_seeds(ratios)
    if found is None:
        return _open(ONE_SEED, "times")
    return {**_answered(Estimate(*map(math.exp, found)), "times"), "verdict": verdict(found)}


def _larger_share(better: Cell, worse: Cell, measured: Mapping[Cell, Measured]) -> dict[str, Any]:
    """By the share of the chosen blocks that a projection got."""
    found = []
    for row, projection in (better, worse):
        if (row, "") not in measured:
            return _open(FAILED)
        shares = measured[row, ""].shares
        if not shares or projection not in shares[0]:
            return _open(f"{row} has no {projection}")
        found.append([of_seed[projection] for of_seed in shares])
    difference = mean_over_seeds([one - other for one, other in zip(*found, strict=True)])
    return _answered(difference) if difference else _open(ONE_SEED)


def _answered(difference: Estimate, unit: str = "points") -> dict[str, Any]:
    return {
        "unit": unit,
        "verdict": verdict(difference),
        "difference": difference._asdict(),
        "reason": "",
    }


def _open(reason: str, unit: str = "points") -> dict[str, Any]:
    return {"unit": unit, "verdict": "not resolved", "reason": reason}
