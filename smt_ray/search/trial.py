"""A trial of a search: one run up to its training, in the process that Ray Tune starts for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from smt_ray.cluster.turns import turn
from smt_ray.config.search import SearchConfig
from smt_ray.documents.run import VALIDATION_LOSS
from smt_ray.documents.search import Point
from smt_ray.grid.side_by_side import enter_folder
from smt_ray.run.flow import Flow

STEP = "step"
METRIC = VALIDATION_LOSS
TRAINED = "trained"
"""Marks the last report of a trial, whose training is stored."""

POINT = "point"
"""The key of Ray Tune's parameter space that holds a point drawn in advance."""


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search need.

    Attributes:
        folder: The folder that the search was started in, which relative paths start from.
    """

    config: SearchConfig
    parent_run_id: str | None
    folder: str


class ReportDuringTraining(TuneReportCallback):  # type: ignore[misc]
    """Reports every validation loss to Tune, except for the last one.

    If a scheduler stopped a trial at its last loss, the trained adapter would not be stored.
    """

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Reports the metrics of rank 0 at a checkpoint."""
        first = metrics[0]
        if METRIC in first and first[STEP] < first["num_steps"]:
            super().after_report(run_context, metrics, checkpoint)


def run_trial(job: TrialJob, point: Point) -> None:
    """Trains the run of a point and reports its last validation loss.

    Raises:
        UserError: The point breaks a rule, or the loss is not finite.
    """
    _leave_folder_of_trial(job.folder)
    config = job.config
    flow = Flow(config.make_run(point), job.parent_run_id, [ReportDuringTraining()], in_turns=True)
    # If a point is drawn again, its trial waits, and then finds the finished training.
    with turn(f"run-{flow.folder.name}"):
        metrics = flow.run("training")
    training = metrics.training
    assert training is not None
    tune.report({STEP: training.num_steps, METRIC: training.validation_loss, TRAINED: True})


def _leave_folder_of_trial(folder: str) -> None:
    """Changes to the folder of the search, since Tune starts a trial in a folder of its own."""
    enter_folder(folder, os.environ.get("TUNE_ORIG_WORKING_DIR", ""))
