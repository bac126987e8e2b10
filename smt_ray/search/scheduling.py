"""Ray Tune's scheduler, which stops trials, and its searcher, which draws points."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler

from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.documents.search import Point, TrialResult
from smt_ray.errors import UserError
from smt_ray.search.space import tune_domains
from smt_ray.search.trial import METRIC, STEP


def make_scheduler(
    config: SearchConfig, runs: Sequence[RunConfig], done: Sequence[TrialResult] = ()
) -> ASHAScheduler | None:
    """The scheduler of a search; None if no trial is stopped.

    Args:
        done: The trials of an earlier start. The scheduler is told of their losses.

    Raises:
        UserError: Training ends before the scheduler could stop a trial.
    """
    if config.scheduler == "none":
        return None
    grace_period, max_t = config.asha_steps(runs)
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=METRIC,
        mode="min",
        # A trial reports its last loss after it has stored everything, so it may be stopped there.
        max_t=max_t,
        grace_period=grace_period,
        reduction_factor=config.asha.reduction_factor,
    )
    for trial in done:
        before: Any = SimpleNamespace(trial_id=trial.run)
        scheduler.on_trial_add(None, before)
        for step, loss in trial.history:
            scheduler.on_trial_result(None, before, {STEP: step, METRIC: loss})
    return scheduler


def check_algorithm(config: SearchConfig) -> None:
    """Called before anything is started.

    Raises:
        UserError: The package of the algorithm is missing.
    """
    if config.algorithm == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError(
            "algorithm",
            "needs the package optuna",
            got="optuna",
            fix="pip install 'smt-ray[optuna]'",
        )


def make_searcher(
    config: SearchConfig, again: Sequence[Point] = (), done: Sequence[TrialResult] = ()
) -> Any:
    """The searcher that draws points from results; None if all points are drawn first.

    Args:
        again: Points of an earlier start whose trials did not end.
        done: The other trials of an earlier start.
    """
    if config.draws_all_points_first:
        return None
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # every trial prints its point
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space(tune_domains(config)),
        metric=METRIC,
        mode="min",
        points_to_evaluate=[dict(point) for point in again],
        # With the same seed it would draw the same points again.
        seed=config.seed + len(again) + len(done),
    )
    for trial in done:
        if trial.loss is not None:
            searcher.add_evaluated_point(trial.point, trial.loss)
    return searcher
