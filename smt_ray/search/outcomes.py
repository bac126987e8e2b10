"""What became of a search's trials: said while they run, read when they are done."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.comparison import Overrides
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.search import value_text
from smt_ray.run import record as run_record
from smt_ray.run.log import log_run
from smt_ray.search.trial import METRIC, STEP, TRAINED
from smt_ray.search.trial_record import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Entry,
    TrialRecord,
    make_entry,
)
from smt_ray.stages.plan import make_plan
from smt_ray.stages.training import METRICS
from smt_ray.tracking.records import Record, parse_records


class TrialLines(tune.Callback):
    """Says, in a line each, what trials do, and writes down what becomes of them.

    Args:
        record: Where; it has the trials that were done before.
        num_trials: Of the search.
    """

    def __init__(self, record: TrialRecord, num_trials: int) -> None:
        self._record, self._num_before = record, len(record.entries)
        self._num_trials = num_trials
        self._numbers: dict[str, int] = {}
        self._started: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial begins."""
        numbers = {each.trial_id: i for i, each in enumerate(trials, self._num_before + 1)}
        self._numbers |= numbers
        self._started[trial.trial_id] = time.monotonic()
        settings = ", ".join(f"{key} {value_text(value)}" for key, value in _point(trial).items())
        say(f"trial {numbers[trial.trial_id]} of {self._num_trials}: {settings}")
        self._record.put(make_entry(trial.trial_id, _point(trial), RUNNING))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A validation loss came."""
        if METRIC in result:
            number = self._numbers.get(trial.trial_id)
            say(f"trial {number}: step {result[STEP]}, validation loss {result[METRIC]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial trained to its end, or was stopped."""
        self._end(trial, FINISHED if trial.last_result.get(TRAINED) else STOPPED)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed; the others go on."""
        reason = _reason(Path(trial.error_file))
        say(f"trial {self._numbers.get(trial.trial_id)}: FAILED ({reason})")
        self._end(trial, FAILED, reason)

    def _end(self, trial: Any, status: str, error: str = "") -> None:
        started = self._started.get(trial.trial_id)
        seconds = None if started is None else round(time.monotonic() - started, 1)
        self._record.put(make_entry(trial.trial_id, _point(trial), status, error, seconds))


def _point(trial: Any) -> Overrides:
    point: Overrides = trial.config.get("point", trial.config)
    return point


def _reason(errors: Path) -> str:
    """What was raised last within a trial: the last line of the file that Ray Tune writes here."""
    line = errors.read_text().strip().rpartition("\n")[2]
    return line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


def settle(
    config: SearchConfig, record: TrialRecord, drawn: Sequence[Overrides] | None
) -> list[Overrides]:
    """Keeps what trials of an earlier start came to; the points that are to be tried again.

    A trial is finished where its run is, whatever was written down; one that was stopped stays so.

    Args:
        config: The search.
        record: Of its trials; what is not kept is taken out.
        drawn: All the search's points, and those not tried yet are among the answer; None where
            each is drawn after those before it.
    """
    entries = record.entries
    if drawn is not None:
        before = {json.dumps(entry["point"]): entry for entry in entries}
        entries = [
            before.get(json.dumps(point)) or make_entry("", point, RUNNING) for point in drawn
        ]
    kept, again = [], []
    for entry in entries:
        if done := _done(config, entry):
            kept.append(done)
        else:
            again.append(entry["point"])
    record.replace(kept)
    return again


def _done(config: SearchConfig, entry: Entry) -> Entry | None:
    """A trial that is not to be tried again, as it stands."""
    try:
        run = config.make_run(entry["point"])
    except UserError:  # optuna may draw what cannot be
        return None
    trained = make_plan(run).trained
    if not trained.is_done():
        return entry if entry["status"] == STOPPED else None
    if entry["status"] in (RUNNING, FAILED) and not _is_finished(trained.storage, run.name):
        return None  # it trained, and did not end its run
    return {**entry, "id": entry["id"] or run.name, "status": FINISHED, "error": ""}


def _is_finished(storage: Storage, run: str) -> bool:
    return bool(RunFolder(storage, run).manifest().get("status") == "FINISHED")


def read_trials(config: SearchConfig, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Trials as plain values: finished ones first, then stopped ones, by their losses.

    Of trials that drew the same run, the best stands for all.

    Args:
        config: The search.
        entries: Of its record.

    Returns:
        ``run``, ``point``, ``status``, ``error``, ``step`` and ``loss`` of the last validation,
        ``history`` of (step, validation loss) pairs, ``ended_ms`` of the last thing measured,
        ``seconds``.
    """
    trials = sorted((_read_trial(config, entry) for entry in entries), key=_rank)
    runs = [trial["run"] for trial in trials]
    return [t for i, t in enumerate(trials) if t["run"] is None or t["run"] not in runs[:i]]


def _rank(trial: dict[str, Any]) -> tuple[int, float]:
    loss = trial["loss"]
    return (FINISHED, STOPPED, FAILED).index(trial["status"]), math.inf if loss is None else loss


def _read_trial(config: SearchConfig, entry: Entry) -> dict[str, Any]:
    trial: dict[str, Any] = {
        "run": None, "point": dict(entry["point"]), "status": FAILED, "error": entry["error"],
        "step": None, "loss": None, "history": [], "ended_ms": None, "seconds": entry["seconds"],
    }  # fmt: skip
    try:
        run = config.make_run(entry["point"])
    except UserError as error:  # optuna may draw what cannot be
        return {**trial, "error": str(error)}
    trained = make_plan(run).trained
    trial["run"] = run.name
    records = _records(trained.storage, trained.path(METRICS))
    trial["history"] = [
        (r["step"], r["metrics"][METRIC]) for r in records if METRIC in r["metrics"]
    ]
    trial["ended_ms"] = max((r["time_ms"] for r in records), default=None)
    if trial["history"]:
        trial["step"], trial["loss"] = trial["history"][-1]
    if entry["status"] == FAILED:
        return trial
    return {**trial, "status": FINISHED if trained.is_done() else STOPPED}


def _records(storage: Storage, place: str) -> list[Record]:
    return parse_records(storage.read_bytes(place).decode()) if storage.exists(place) else []


def close_trials(storage: Storage, trials: Sequence[dict[str, Any]]) -> None:
    """Ends the runs of trials that were stopped with their processes, which could not.

    One that was just being stopped may have taken that for a failure, and not have told MLflow.
    """
    for trial in trials:
        if trial["run"] is None:
            continue
        folder = RunFolder(storage, trial["run"])
        manifest = folder.manifest()
        unsettled = ("RUNNING", "FAILED") if trial["status"] == STOPPED else ("RUNNING",)
        if manifest.get("status") not in unsettled:
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
