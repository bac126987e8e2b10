"""A trial of a search: one run up to its training, within Ray Tune's process for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from smt_ray.cluster.turns import turn
from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.run.flow import Flow
from smt_ray.training.loop import VALIDATION_LOSS

STEP = "step"
METRIC = VALIDATION_LOSS
TRAINED = "trained"  # of a trial's last report, whose training is kept


class ReportOnTheWay(TuneReportCallback):
    """Tells Tune each validation loss but the last.

    A scheduler that stopped a trial there would stop it before it has kept what it trained.
    """

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Takes each rank's metrics of a checkpoint."""
        first = metrics[0]
        if METRIC in first and first[STEP] < first["num_steps"]:
            super().after_report(run_context, metrics, checkpoint)


def run_trial(
    search: Mapping[str, Any], point: Mapping[str, Any], parent_run_id: str | None, folder: str
) -> None:
    """Trains the run of a point and reports its validation loss.

    Args:
        search: The search's configuration as plain values.
        point: Dotted keys of the run, and their values.
        parent_run_id: MLflow's id of the search.
        folder: Where the search was started: what its relative paths are relative to.

    Raises:
        UserError: The point breaks a rule, or the loss is not finite.
    """
    _work_in(folder)
    config = validate_section(SearchConfig, search)
    flow = Flow(config.make_run(point), parent_run_id, [ReportOnTheWay()])
    metrics = _train_in_turn(flow) if config.algorithm == "optuna" else flow.run("training")
    training = metrics["training"]
    tune.report({STEP: training["num_steps"], METRIC: training[METRIC], TRAINED: True})


def _train_in_turn(flow: Flow) -> dict[str, Any]:
    """Trains where other trials may need the same.

    What draws as it goes may draw a point again, whose trial then waits, and finds what came out.
    A warm-up or a selection that only some points have is made by the first trial that needs it.
    """
    plan = flow.plan
    with turn(plan.trained.name):
        for until in ("warmup", "selection"):
            stage = plan.stages.get(until)
            if stage is None or plan.trained.is_done() or stage.is_done():
                continue
            if until == "warmup" and not flow.needs_warmup():
                continue
            with turn(stage.name):
                if not stage.is_done():
                    Flow(flow.config, flow.parent_run_id).run(until)
        return flow.run("training")


def _work_in(folder: str) -> None:
    """Leaves the folder of the trial, into which Tune has put its process.

    A node that lacks the search's folder may have what was submitted with the job elsewhere: where
    the process was before.
    """
    for place in (folder, os.environ.get("TUNE_ORIG_WORKING_DIR", "")):
        if os.path.isdir(place):
            os.chdir(place)
            return
