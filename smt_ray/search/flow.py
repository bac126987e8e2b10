"""The flow of a search: points, their warm-ups, trials under Ray Tune, the winner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.nodes import ray_for
from smt_ray.cluster.shared_places import check_shared
from smt_ray.config.comparison import Overrides
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.grid.parent import ParentRun
from smt_ray.grid.runs import check_grid
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.search import to_markdown
from smt_ray.run.flow import Flow
from smt_ray.run.merge import check_out, merge_run
from smt_ray.run.snapshot import final_metrics as metrics_of_run
from smt_ray.search.record import best_yaml, check_same_search, write_search
from smt_ray.search.report import RESULTS, folder_of
from smt_ray.search.shared import make_shared
from smt_ray.search.space import corner_points, distinct_trainings, draw_points
from smt_ray.search.trial import METRIC
from smt_ray.search.trial_record import FAILED, FINISHED, STOPPED
from smt_ray.search.tuner import (
    count_trials,
    make_scheduler,
    make_searcher,
    run_trials,
)


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
    make_searcher(config)  # which may lack its package
    points = draw_points(config) if config.algorithm == "random" else corner_points(config)
    runs = _make_runs(config, points)
    make_scheduler(config, runs)  # which may not fit the runs' steps
    check_grid(runs)
    check_same_search(config, runs)
    if config.algorithm == "random":
        points, runs = _distinct(config, points, runs)
    asking = [] if Storage(runs[0].storage).exists(folder_of(config.name), RESULTS) else runs
    at_once = min(config.max_concurrent_trials or 1, count_trials(config, points))
    with ray_for(asking, at_once, dashboard=True):
        check_shared(runs[0], searches=True)
        parent = ParentRun(config, folder_of(config.name), runs[0])
        try:
            make_shared(runs, parent.run_id, all_are_trials=config.algorithm == "random")
            trials = run_trials(config, points, runs, parent)
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


def _distinct(
    config: SearchConfig, points: Sequence[Overrides], runs: Sequence[RunConfig]
) -> tuple[list[Overrides], list[RunConfig]]:
    """Points of which no two would train the same beside each other."""
    kept, their_runs = distinct_trainings(points, runs)
    if left_out := len(points) - len(kept):
        say(
            f"search {config.name}: {left_out} of {len(points)} points come to the same training as"
            " another, and are left out"
        )
    return kept, their_runs


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
