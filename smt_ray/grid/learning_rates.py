"""The learning rate of each group of cells: several are tried, and the validation loss decides.

A group is all cells of a method, or one cell.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from smt_ray.config.run import RunConfig
from smt_ray.grid.runs import Outcome


class Tuning(NamedTuple):
    """The learning rates that were tried.

    Attributes:
        runs: Group -> learning rate -> the run that tried it.
        outcomes: Run -> its outcome.
        chosen: Group -> its learning rate; a group is missing if all its learning rates failed.
    """

    runs: dict[str, dict[float, RunConfig]]
    outcomes: dict[str, Outcome]
    chosen: dict[str, float]


def choose_rates(runs: dict[str, dict[float, RunConfig]], outcomes: dict[str, Outcome]) -> Tuning:
    """Chooses the learning rate with the lowest validation loss for each group."""
    chosen = {}
    for group, tried in runs.items():
        losses = {
            rate: loss
            for rate, run in tried.items()
            if (loss := validation_loss(outcomes[run.name])) is not None
        }
        if losses:
            chosen[group] = min(losses, key=losses.__getitem__)
    return Tuning(runs, outcomes, chosen)


def validation_loss(outcome: Outcome) -> float | None:
    """The last validation loss of a run; None if the run failed or the loss is not finite."""
    training = outcome.metrics.training if outcome.metrics else None
    loss = training.validation_loss if training else None
    return loss if loss is not None and math.isfinite(loss) else None
