"""Sends everything on disk of a run, at its end and by ``smt-ray log RUN``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smt_ray.documents.run import Dataset, Record, Status
from smt_ray.tracking.protocol import RunStart, Tracker
from smt_ray.tracking.records import make_record

LOGGED_MODEL = "tuned"
"""The name of the tuned model among those of its run."""


@dataclass(frozen=True, kw_only=True)
class RunSnapshot(RunStart):
    """Everything that a tracker shows of one run, read from the folder of the run.

    No value depends on the clock, so two snapshots of one folder are equal, and sending the second
    changes nothing.

    Attributes:
        ended_ms: The end, in milliseconds since the epoch, which dates the final metrics; None for
            a run that has not ended.
        final_metrics: Flat metrics, such as ``{"eval/boolq/tuned": 0.71}``.
        artifacts: Pairs of a local file or folder and its folder among the artifacts, or None.
        model: The local folder of the merged model to send; None for none.
        tables: The columns by file name, such as ``{"tasks.json": {"task": [...]}}``.
    """

    status: Status
    ended_ms: int | None = None
    records: Sequence[Record] = ()
    final_metrics: Mapping[str, float] = field(default_factory=dict)
    datasets: Sequence[Dataset] = ()
    artifacts: Sequence[tuple[str, str | None]] = ()
    model: str | None = None
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)


def replay(tracker: Tracker, snapshot: RunSnapshot) -> str | None:
    """Sends a run; returns the tracker's id, or None if the store cannot be reached.

    What the store already has stays unchanged. Metrics are sent first and folders last, so a server
    that fails at a large upload has the rest.
    """
    run_id = tracker.start_run(snapshot)
    if snapshot.records:
        tracker.log_missing_records(snapshot.records)
    if snapshot.final_metrics:
        time_ms = snapshot.started_ms if snapshot.ended_ms is None else snapshot.ended_ms
        tracker.log_records([make_record(0, snapshot.final_metrics, time_ms=time_ms)])
    for dataset in snapshot.datasets:
        tracker.log_dataset(dataset)
    for file_name, columns in snapshot.tables.items():
        tracker.log_table(columns, file_name)
    for path, artifact_path in snapshot.artifacts:
        send = tracker.log_artifacts if Path(path).is_dir() else tracker.log_artifact
        send(path, artifact_path)
    if snapshot.model:
        tracker.log_model(snapshot.model, LOGGED_MODEL)
    if snapshot.status != "RUNNING":
        tracker.end_run(snapshot.status, ended_ms=snapshot.ended_ms)
    return run_id
