"""The flow of a search: points, their warm-ups, trials under Ray Tune, the winner."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from smt_ray.artifacts.storage import Storage
from smt_ray.config.comparison import Overrides
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.orchestration.credentials import trials_without_secrets
from smt_ray.orchestration.flow import Flow
from smt_ray.orchestration.grid import check_grid
from smt_ray.orchestration.merge import check_out, merge_run
from smt_ray.orchestration.nodes import cluster_nodes, ray_for
from smt_ray.orchestration.parent_run import ParentRun
from smt_ray.orchestration.progress import say
from smt_ray.orchestration.resources import count_places, plan_processes
from smt_ray.orchestration.search_record import best_yaml, check_same_search, write_search
from smt_ray.orchestration.search_report import RESULTS, folder_of
from smt_ray.orchestration.search_space import (
    corner_points,
    draw_points,
    tune_domains,
)
from smt_ray.orchestration.shared_places import check_shared
from smt_ray.orchestration.snapshot import final_metrics as metrics_of_run
from smt_ray.orchestration.trial import METRIC, STEP, run_trial
from smt_ray.orchestration.trial_outcomes import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialLines,
    close_trials,
    read_trials,
)
from smt_ray.reporting.search import to_markdown

_POINT, _FOLDER = "point", "tune"


def search(config: SearchConfig, merge_into: Path | None = None) -> dict[str, Any]:
    """Carries out a search; one that was cut off goes on, its finished trials kept.

    Args:
        config: The search.
        merge_into: A new folder for the winner's model, or None.

    Returns:
        What ``searches/<name>/search.json`` holds.

    Raises:
        UserError: A point cannot work, and nothing has been started then; or no trial finished.
    """
    started_ms = time.time_ns() // 1_000_000
    if merge_into is not None:
        check_out(merge_into)
    _optuna(config)
    points = draw_points(config) if config.algorithm == "random" else corner_points(config)
    runs = _make_runs(config, points)
    check_grid(runs)
    check_same_search(config, runs)
    asking = [] if Storage(runs[0].storage).exists(folder_of(config.name), RESULTS) else runs
    at_once = min(config.max_concurrent_trials or 1, _num_trials(config, points))
    with ray_for(asking, at_once, dashboard=True):
        check_shared(runs[0], searches=True)
        parent = ParentRun(config, folder_of(config.name), runs[0])
        try:
            _make_warmups(runs, parent.run_id)
            trials = _trials(config, points, runs, parent)
            best = _best(trials)
            winner = Flow(config.make_run(best["point"]), parent.run_id).run("evaluation")
            results = {
                "name": config.name,
                "started_ms": started_ms,
                "ended_ms": time.time_ns() // 1_000_000,
                "trials": trials,
                "log_keys": [key for key, domain in config.domains.items() if domain.is_log],
                "winner": winner,
                "best_yaml": best_yaml(config, best, len(trials)),
            }
            files = write_search(parent, config, results)
            numbers, summary = final_metrics(results), to_markdown(results)
        except BaseException as error:
            parent.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        parent.end("FINISHED", numbers, files, summary)
    if merge_into is not None:
        say(f"merged: {merge_run(parent.storage, best['run'], merge_into)}")
    return results


def _make_runs(config: SearchConfig, points: Sequence[Overrides]) -> list[RunConfig]:
    """The points' runs.

    Raises:
        UserError: A point breaks a rule of the run's config; it is named.
    """
    runs = []
    for point in points:
        try:
            runs.append(config.make_run(point))
        except UserError as error:
            raise UserError(
                f"space at {point}: {error.field}", error.rule, got=error.got, fix=error.fix
            ) from None
    return runs


def _make_warmups(runs: Sequence[RunConfig], parent_run_id: str | None) -> None:
    """Each distinct warm-up once, before trials beside each other would all make it."""
    for run in runs:
        flow = Flow(run, parent_run_id)
        if flow.plan.warmup and flow.plan.warmup.manifest() is None and flow.needs_warmup():
            flow.run("warmup")


def _trials(
    config: SearchConfig, points: Sequence[Overrides], runs: Sequence[RunConfig], parent: ParentRun
) -> list[dict[str, Any]]:
    """Runs what is left of the search; every trial's outcome."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # which prints even where verbose is 0
    # An interrupt is ours to say: Tune would take it for an end, and a winner would be evaluated.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    place = parent.storage.uri(parent.folder, _FOLDER)
    plain, parent_run_id = config.model_dump(mode="json"), parent.run_id

    def trial(space: dict[str, Any]) -> None:
        run_trial(plain, space.get(_POINT, space), parent_run_id)

    # Its processes ask for CPUs themselves: a trial that held any would keep them from its own.
    trainable = tune.with_resources(trial, {"memory": 1e8})
    if tune.Tuner.can_restore(place):
        say(f"search {config.name}: goes on from {place}")
        tuner = tune.Tuner.restore(place, trainable, restart_errored=True)
    else:
        tuner = _new_tuner(config, trainable, points, runs, parent)
    with trials_without_secrets():
        found = tuner.fit()
    trials = read_trials(config, found, lambda space: space.get(_POINT, space))
    close_trials(parent.storage, trials)
    return trials


def _new_tuner(
    config: SearchConfig, trainable: Any, points: Sequence[Overrides], runs: Sequence[RunConfig],
    parent: ParentRun,
) -> tune.Tuner:  # fmt: skip
    drawn = config.algorithm == "random"  # all of them, beforehand
    num_points = _num_trials(config, points)
    at_once = concurrent_runs(config, runs)
    say(f"search {config.name}: {num_points} trials, {at_once} at a time")
    return tune.Tuner(
        trainable,
        param_space={_POINT: tune.grid_search(list(points))} if drawn else tune_domains(config),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=_optuna(config),
            scheduler=_scheduler(config, runs),
            num_samples=1 if drawn else num_points,
            max_concurrent_trials=at_once,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_FOLDER,
            storage_path=parent.storage.uri(parent.folder),
            verbose=0,
            callbacks=[TrialLines(num_points)],
        ),
    )


def _num_trials(config: SearchConfig, points: Sequence[Overrides]) -> int:
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


def _scheduler(config: SearchConfig, runs: Sequence[RunConfig]) -> ASHAScheduler | None:
    if config.scheduler == "none":
        return None
    first = runs[0].training
    return ASHAScheduler(
        time_attr=STEP,
        # A trial's last loss comes when all is kept: to be stopped there costs it nothing.
        max_t=first.max_steps or 10**9,
        grace_period=config.asha.grace_period or first.validate_every_steps or 1,
        reduction_factor=config.asha.reduction_factor,
    )


def _optuna(config: SearchConfig) -> Any:
    if config.algorithm != "optuna":
        return None
    try:
        import optuna  # noqa: F401
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise UserError(
            "algorithm",
            "needs the package optuna",
            got="optuna",
            fix="pip install 'smt-ray[optuna]'",
        ) from None
    return OptunaSearch(seed=config.seed)


def final_metrics(results: dict[str, Any]) -> dict[str, float]:
    """The winner's loss, its point and its accuracies; how many trials ended how."""
    best, winner = results["trials"][0], metrics_of_run(results["winner"])
    point = {key: x for key, x in best["point"].items() if isinstance(x, int | float)}
    statuses = [trial["status"] for trial in results["trials"]]
    return {
        f"best/{METRIC}": best["loss"],
        **{f"best/{key}": float(value) for key, value in point.items()},
        **{f"best/{key}": value for key, value in winner.items() if key.startswith("eval/")},
        **{f"trials/{s}": float(statuses.count(s)) for s in (FINISHED, STOPPED, FAILED)},
    }


def _best(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trial of the lowest last validation loss, of those that trained to the end."""
    finished = [trial for trial in trials if trial["status"] == FINISHED]
    if not finished:
        errors = "; ".join(dict.fromkeys(trial["error"] for trial in trials if trial["error"]))
        raise UserError(
            "space", f"at least one trial must train to its end ({errors})", got=len(trials),
            fix="see the trials' errors above",
        )  # fmt: skip
    return min(finished, key=lambda trial: float(trial["loss"]))
