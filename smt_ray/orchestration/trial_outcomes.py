"""What became of a search's trials: said while they run, read when they are done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.comparison import Overrides
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.orchestration import run_record
from smt_ray.orchestration.log import log_run
from smt_ray.orchestration.plan import make_plan
from smt_ray.orchestration.progress import say
from smt_ray.orchestration.trainer import METRICS
from smt_ray.orchestration.trial import METRIC, STEP
from smt_ray.reporting.search import value_text
from smt_ray.tracking.records import Record, parse_records

FINISHED, STOPPED, FAILED = "finished", "stopped early", "failed"


class TrialLines(tune.Callback):
    """A line for each thing that a trial does.

    Args:
        num_trials: Of the search.
    """

    def __init__(self, num_trials: int) -> None:
        self._num_trials = num_trials
        self._numbers: dict[str, int] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins, or goes on."""
        numbers = {other.trial_id: number for number, other in enumerate(trials, 1)}
        self._numbers |= numbers
        point = trial.config.get("point", trial.config)
        settings = ", ".join(f"{key} {value_text(value)}" for key, value in point.items())
        say(f"trial {numbers[trial.trial_id]} of {self._num_trials}: {settings}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A validation loss came."""
        if METRIC in result:
            number = self._numbers.get(trial.trial_id)
            say(f"trial {number}: step {result[STEP]}, validation loss {result[METRIC]:.4f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed; the others go on."""
        say(f"trial {self._numbers.get(trial.trial_id)}: FAILED")


def read_trials(
    config: SearchConfig, results: tune.ResultGrid, point_of: Callable[[dict[str, Any]], Overrides]
) -> list[dict[str, Any]]:
    """Every trial as plain values: finished ones first, then stopped ones, by their losses.

    Args:
        config: The search.
        results: What Ray Tune came to.
        point_of: The point in a trial's config.

    Returns:
        ``run``, ``point``, ``status``, ``error``, ``step`` and ``loss`` of the last validation,
        ``history`` of (step, validation loss) pairs, ``ended_ms`` of the last thing measured,
        ``seconds``.
    """
    found = [results[i] for i in range(len(results))]
    trials = [_read_trial(config, result, point_of(result.config or {})) for result in found]
    return sorted(trials, key=_rank)


def _rank(trial: dict[str, Any]) -> tuple[int, float]:
    loss = trial["loss"]
    return (FINISHED, STOPPED, FAILED).index(trial["status"]), math.inf if loss is None else loss


def _read_trial(config: SearchConfig, result: Any, point: Overrides) -> dict[str, Any]:
    trial: dict[str, Any] = {
        "run": None, "point": dict(point), "status": FAILED, "error": "", "step": None,
        "loss": None, "history": [], "ended_ms": None, "seconds": None,
    }  # fmt: skip
    try:
        run = config.make_run(point)
    except UserError as error:  # optuna may draw what cannot be
        return {**trial, "error": str(error)}
    trained = make_plan(run).trained
    trial["run"] = run.name
    records = _records(trained.storage, trained.path(METRICS))
    trial["history"] = [
        (r["step"], r["metrics"][METRIC]) for r in records if METRIC in r["metrics"]
    ]
    trial["ended_ms"] = max((r["time_ms"] for r in records), default=None)
    metrics = result.metrics or {}
    trial["seconds"] = metrics.get("time_total_s")
    if trial["history"]:
        trial["step"], trial["loss"] = trial["history"][-1]
    if result.error is not None:
        return {**trial, "error": _reason(result.error)}
    return {**trial, "status": STOPPED if trained.manifest() is None else FINISHED}


def _records(storage: Storage, place: str) -> list[Record]:
    return parse_records(storage.read_bytes(place).decode()) if storage.exists(place) else []


def _reason(error: BaseException) -> str:
    """The last line of what was raised within a trial."""
    return str(error).strip().rpartition("\n")[2]


def close_trials(storage: Storage, trials: Sequence[dict[str, Any]]) -> None:
    """Ends the runs of trials that were stopped with their processes, which could not."""
    for trial in trials:
        if trial["run"] is None:
            continue
        folder = RunFolder(storage, trial["run"])
        manifest = folder.manifest()
        if manifest.get("status") != "RUNNING":
            continue
        status = "FAILED" if trial["status"] == FAILED else "KILLED"
        run_record.end(folder, status, trial["ended_ms"])
        folder.update(tags={**manifest["tags"], "trial": trial["status"]})
        _send(folder, manifest)


def _send(folder: RunFolder, manifest: dict[str, Any]) -> None:
    if not manifest["config"]["tracking"]["enabled"]:
        return
    try:
        log_run(folder.storage.root, folder.name)
    except UserError as error:
        say(f"WARNING tracking: {error}")
