"""The measurements of runs and of the cells that they belong to, read from their artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smt_ray.artifacts.stages import Stage
from smt_ray.comparison.statistics import Correct
from smt_ray.documents.comparison import WeightBlocks
from smt_ray.documents.run import Record, evaluation_key
from smt_ray.grid.runs import Outcome
from smt_ray.run.artifacts import StageArtifacts

_STEP_SECONDS = "train/step_seconds"
_RAMP = 0.1  # the share of the first steps that is left out of the speed


@dataclass(frozen=True)
class RunMeasures:
    """The measurements of one finished run.

    Attributes:
        correct: Task -> whether each test row was answered correctly; empty without evaluation.
        step_seconds: The median of the seconds a step; None if they were not recorded.
        blocks: Projection -> its selected blocks; empty without selection.
    """

    correct: dict[str, NDArray[np.bool_]]
    step_seconds: float | None
    blocks: dict[str, int]


class Measured(NamedTuple):
    """The measurements of a cell, one of each run; None if a run lacks them.

    Attributes:
        correct: Which test rows were answered correctly.
        step_seconds: The median of the seconds a step, by seed.
        shares: Projection -> its share of the selected blocks, in [0, 1], by seed.
    """

    correct: Correct | None = None
    step_seconds: list[float] | None = None
    shares: list[dict[str, float]] | None = None


def measure_run(outcome: Outcome) -> RunMeasures:
    """The measurements of a run that did not fail.

    Raises:
        UserError: An artifact cannot be read.
    """
    assert outcome.metrics is not None
    metrics, storage = outcome.metrics, outcome.folder.storage
    artifacts = StageArtifacts(storage, metrics.stages)
    correct = {}
    if metrics.tasks:
        Stage.open(storage, metrics.stages[evaluation_key("tuned")].stage)  # refuses damaged files
        answers = artifacts.predictions("tuned")
        correct = {task: np.array([a.correct for a in answers[task]]) for task in metrics.tasks}
    return RunMeasures(
        correct,
        _step_seconds(artifacts.records()),
        metrics.selection.projections if metrics.selection else {},
    )


def measure_cell(runs: Sequence[RunMeasures], eligible: Iterable[str] = ()) -> Measured:
    """The measurements of a cell.

    Args:
        runs: The measurements of its runs, one for each seed.
        eligible: Projections that have a share even if none of their blocks was selected.
    """
    seconds = [run.step_seconds for run in runs if run.step_seconds]
    return Measured(
        _stack_answers(runs) if all(run.correct for run in runs) else None,
        seconds if len(seconds) == len(runs) else None,
        _shares([run.blocks for run in runs], eligible),
    )


def read_weights(outcome: Outcome) -> list[WeightBlocks]:
    """The eligible weights of a run with their numbers of blocks; empty without selection.

    Raises:
        UserError: The selection cannot be read.
    """
    assert outcome.metrics is not None
    weights = StageArtifacts(outcome.folder.storage, outcome.metrics.stages).weights()
    return [
        WeightBlocks(
            module=weight.name,
            chosen=weight.num_chosen,
            blocks=weight.num_blocks,
            block_shape=weight.block_shape,
        )
        for weight in weights
    ]


def _step_seconds(records: Sequence[Record]) -> float | None:
    metrics = [record["metrics"] for record in records]
    seconds = [found[_STEP_SECONDS] for found in metrics if _STEP_SECONDS in found]
    return float(np.median(seconds[int(_RAMP * len(seconds)) :])) if seconds else None


def _stack_answers(runs: Sequence[RunMeasures]) -> Correct:
    return {task: np.stack([run.correct[task] for run in runs]) for task in runs[0].correct}


def _shares(
    counts: Sequence[dict[str, int]], eligible: Iterable[str]
) -> list[dict[str, float]] | None:
    if not all(counts):
        return None
    names = dict.fromkeys([*eligible, *(name for found in counts for name in found)])
    return [{name: found.get(name, 0) / sum(found.values()) for name in names} for found in counts]
