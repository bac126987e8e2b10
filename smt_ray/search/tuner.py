"""A search's trials under Ray Tune: those that are left, as many at a time as the cluster holds.

What is left follows from the stages and from the search's own record of its trials, never from Ray
Tune's snapshots: every start has a new Tuner over it, told of what came out before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from smt_ray.cluster.credentials import trials_without_secrets
from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import count_places, plan_processes
from smt_ray.config.comparison import Overrides
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.grid.parent import ParentRun
from smt_ray.reporting.text.progress import say
from smt_ray.search.outcomes import TrialLines, close_trials, read_trials, settle
from smt_ray.search.space import tune_domains
from smt_ray.search.trial import METRIC, STEP, run_trial
from smt_ray.search.trial_record import RUNNING, TrialRecord

_POINT, _FOLDER = "point", "tune"


def run_trials(
    config: SearchConfig, points: Sequence[Overrides], runs: Sequence[RunConfig], parent: ParentRun
) -> list[dict[str, Any]]:
    """Runs what is left of a search; every trial's outcome, those of earlier starts included.

    Args:
        config: The search.
        points: All its points, or those that it is checked by where it draws as it goes.
        runs: The points'.
        parent: The search's folder.

    Raises:
        UserError: Ray Tune ended before all trials had.
    """
    record = TrialRecord(parent.storage.root, parent.folder)
    again = settle(config, record, points if config.algorithm == "random" else None)
    num_before, num_trials = len(record.entries), count_trials(config, points)
    if num_before:
        say(f"search {config.name}: goes on: {num_before} of {num_trials} trials are done")
    if num_before < num_trials:
        with trials_without_secrets():
            _make_tuner(config, runs, parent, record, again, num_trials).fit()
        record = TrialRecord(parent.storage.root, parent.folder)
        _check_all_ended(record, num_trials)
    trials = read_trials(config, record.entries)
    close_trials(parent.storage, trials)
    return trials


def _make_tuner(
    config: SearchConfig, runs: Sequence[RunConfig], parent: ParentRun, record: TrialRecord,
    again: Sequence[Overrides], num_trials: int,
) -> tune.Tuner:  # fmt: skip
    done, num_left = read_trials(config, record.entries), num_trials - len(record.entries)
    drawn = config.algorithm == "random"  # all of them, beforehand
    at_once = concurrent_runs(config, runs)
    say(f"search {config.name}: {num_left} trials, {at_once} at a time")
    return tune.Tuner(
        _trainable(config, parent.run_id),
        param_space={_POINT: tune.grid_search(list(again))} if drawn else {},
        tune_config=tune.TuneConfig(
            search_alg=make_searcher(config, again, done),
            scheduler=make_scheduler(config, runs, done),
            num_samples=1 if drawn else num_left,
            max_concurrent_trials=at_once,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_FOLDER,
            storage_path=parent.storage.uri(parent.folder),
            verbose=0,
            callbacks=[TrialLines(record, num_trials)],
        ),
    )


def _trainable(config: SearchConfig, parent_run_id: str | None) -> Any:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # which prints even where verbose is 0
    # An interrupt is ours to say: Tune would take it for an end, and a winner would be evaluated.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    plain, here = config.model_dump(mode="json"), str(Path.cwd())

    def trial(space: dict[str, Any]) -> None:
        run_trial(plain, space.get(_POINT, space), parent_run_id, here)

    # Its processes ask for CPUs themselves: a trial that held any would keep them from its own.
    return tune.with_resources(trial, {"memory": 1e8})


def _check_all_ended(record: TrialRecord, num_trials: int) -> None:
    ended = [entry for entry in record.entries if entry["status"] != RUNNING]
    if len(ended) < num_trials:
        raise UserError(
            "search", f"all {num_trials} trials must come to an end", got=len(ended),
            fix="start it again: it goes on from here",
        )  # fmt: skip


def count_trials(config: SearchConfig, points: Sequence[Overrides]) -> int:
    """How many trials the search has."""
    return len(points) if config.algorithm == "random" else config.num_samples


def concurrent_runs(config: SearchConfig, runs: Sequence[RunConfig]) -> int:
    """Trials at a time: as many as can train beside each other.

    No trial then waits for what another holds.

    Raises:
        UserError: The cluster cannot hold one.
    """
    nodes, most = cluster_nodes(), sys.maxsize
    for run in runs:
        workers = run.resources.num_workers
        each = plan_processes(run.resources, workers, nodes, "run.resources.num_workers")
        most = min(most, count_places(nodes, each) // workers)
    return min(most, config.max_concurrent_trials or most)


def make_scheduler(
    config: SearchConfig, runs: Sequence[RunConfig], done: Sequence[dict[str, Any]] = ()
) -> ASHAScheduler | None:
    """What stops trials, if anything does.

    Args:
        config: The search.
        runs: Its runs.
        done: Trials of earlier starts, whose losses count as if they came now.

    Raises:
        UserError: Training ends before the scheduler would look at it.
    """
    if config.scheduler == "none":
        return None
    grace_period, max_t = config.asha_steps(runs)
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=METRIC,
        mode="min",
        # A trial's last loss comes when all is kept: to be stopped there costs it nothing.
        max_t=max_t,
        grace_period=grace_period,
        reduction_factor=config.asha.reduction_factor,
    )
    for trial in done:
        before: Any = SimpleNamespace(trial_id=trial["run"])
        scheduler.on_trial_add(None, before)
        for step, loss in trial["history"]:
            scheduler.on_trial_result(None, before, {STEP: step, METRIC: loss})
    return scheduler


def make_searcher(
    config: SearchConfig,
    again: Sequence[Overrides] = (),
    done: Sequence[dict[str, Any]] = (),
) -> Any:
    """What draws points by what it has seen; None where they are all drawn beforehand.

    Args:
        config: The search.
        again: Points that an earlier start drew and did not come to an end with.
        done: Its other trials.

    Raises:
        UserError: The package is missing.
    """
    if config.algorithm != "optuna":
        return None
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise UserError(
            "algorithm",
            "needs the package optuna",
            got="optuna",
            fix="pip install 'smt-ray[optuna]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it draws is said trial by trial
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space(tune_domains(config)),
        metric=METRIC,
        mode="min",
        points_to_evaluate=[dict(point) for point in again],
        # With the same seed it would draw again what it drew before.
        seed=config.seed + len(again) + len(done),
    )
    for trial in done:
        if trial["loss"] is not None:
            searcher.add_evaluated_point(trial["point"], trial["loss"])
    return searcher
