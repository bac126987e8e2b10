"""The outcomes of trials: what a later start keeps, and the results that are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from smt_ray.artifacts.layout import RECORDS
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import validate_config
from smt_ray.documents.run import Record, RunManifest, Status
from smt_ray.documents.search import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    Point,
    TrialEntry,
    TrialResult,
)
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say
from smt_ray.run import record as run_record
from smt_ray.run.log import log_run
from smt_ray.search.planned import PlannedSearch
from smt_ray.search.trial import METRIC
from smt_ray.search.trial_record import TrialRecord
from smt_ray.tracking.records import parse_records

_ORDER = (FINISHED, STOPPED, FAILED)


def settle(search: PlannedSearch, record: TrialRecord) -> list[Point]:
    """Keeps the trials of an earlier start that have ended; removes the others from the record.

    A trial is finished if its run is, whatever the record says. A stopped trial stays stopped.

    Returns:
        The points that are still to be tried. If points are drawn one after the other, these are
        the points of interrupted and failed trials.
    """
    entries = record.entries
    if search.config.draws_all_points_first:
        before = {json.dumps(entry.point): entry for entry in entries}
        entries = [
            before.get(json.dumps(point)) or TrialEntry(id="", point=point, status=RUNNING)
            for point in search.points
        ]
    kept, again = [], []
    for entry in entries:
        if ended := _ended(search, entry):
            kept.append(ended)
        else:
            again.append(entry.point)
    record.replace(kept)
    return again


def _ended(search: PlannedSearch, entry: TrialEntry) -> TrialEntry | None:
    """The entry of a trial that need not be tried again."""
    try:
        plan = search.plan(entry.point)
    except UserError:  # optuna may draw points that are no valid configurations
        return None
    if not plan.training.is_done():
        return entry if entry.status == STOPPED else None
    name = plan.config.name
    ended = RunFolder(plan.storage, name).manifest().status == "FINISHED"
    if entry.status in (RUNNING, FAILED) and not ended:
        return None  # it was trained, but its run did not end
    return entry.model_copy(update={"id": entry.id or name, "status": FINISHED, "error": ""})


def read_trials(search: PlannedSearch, entries: Sequence[TrialEntry]) -> list[TrialResult]:
    """The results of trials: finished ones first, then stopped ones, each by validation loss.

    Of several trials with the same run only the best one is kept.
    """
    trials = sorted((_read_trial(search, entry) for entry in entries), key=_rank)
    runs = [trial.run for trial in trials]
    return [t for i, t in enumerate(trials) if t.run is None or t.run not in runs[:i]]


def _rank(trial: TrialResult) -> tuple[int, float]:
    return _ORDER.index(trial.status), math.inf if trial.loss is None else trial.loss


def _read_trial(search: PlannedSearch, entry: TrialEntry) -> TrialResult:
    try:
        plan = search.plan(entry.point)
    except UserError as error:  # optuna may draw points that are no valid configurations
        return TrialResult(
            point=entry.point, status=FAILED, error=str(error), seconds=entry.seconds
        )
    training = plan.training
    records = _read_records(training.storage, training.path(RECORDS))
    history = [(r["step"], r["metrics"][METRIC]) for r in records if METRIC in r["metrics"]]
    step, loss = history[-1] if history else (None, None)
    trained = FINISHED if training.is_done() else STOPPED
    return TrialResult(
        run=plan.config.name,
        point=entry.point,
        status=FAILED if entry.status == FAILED else trained,
        error=entry.error,
        step=step,
        loss=loss,
        history=history,
        ended_ms=max((r["time_ms"] for r in records), default=None),
        seconds=entry.seconds,
    )


def _read_records(storage: Storage, place: str) -> list[Record]:
    return parse_records(storage.read_text(place)) if storage.exists(place) else []


def close_trials(storage: Storage, trials: Sequence[TrialResult]) -> None:
    """Ends the runs of stopped trials, since Tune ends their processes without notice.

    A run that was just being stopped may have noted a failure without telling the tracker.
    """
    for trial in trials:
        if trial.run is None:
            continue
        folder = RunFolder(storage, trial.run)
        manifest = folder.manifest()
        unsettled = ("RUNNING", "FAILED") if trial.status == STOPPED else ("RUNNING",)
        if manifest.status not in unsettled:
            continue
        status: Status = "FAILED" if trial.status == FAILED else "KILLED"
        run_record.end(folder, status, trial.ended_ms)
        folder.update(tags={**manifest.tags, "trial": trial.status})
        _send(folder, manifest)


def _send(folder: RunFolder, manifest: RunManifest) -> None:
    if not validate_config(manifest.config).tracking.enabled:
        return
    try:
        log_run(folder.storage.root, folder.name)
    except UserError as error:
        say(f"WARNING tracking: {error}")
