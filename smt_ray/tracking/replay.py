"""Send all that is on disk for one run; at a run's end and at ``smt-ray log RUN`` alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smt_ray.tracking.protocol import Dataset, Status, Tracker
from smt_ray.tracking.records import Record


@dataclass(frozen=True)
class RunSnapshot:
    """All that MLflow shows of one run, read from the run's directory.

    Nothing in it is taken from the clock, so two snapshots of one directory are equal and sending
    the second changes nothing.

    Attributes:
        name: The run's name.
        key: What names this run for ever, such as its storage, name and the time it was made. A
            run of this key is continued where ``run_id`` is not known.
        started_ms, ended_ms: Milliseconds since the epoch; ``ended_ms`` is None for a run that
            has not ended, and dates the final metrics.
        status: How the run stands.
        params: Flat, from the resolved config.
        tags: Such as method, model, suite, commit.
        records: The lines of ``metrics.jsonl``.
        final_metrics: Flat, such as ``{"eval/boolq/tuned": 0.71}``.
        datasets: Rows that the run read.
        artifacts: (local file or folder, folder in MLflow or None) pairs.
        tables: Columns by file name, such as ``{"tasks.json": {"task": [...]}}``.
        run_id: MLflow's id, where known.
        parent_run_id: The search or comparison that this run is part of.
    """

    name: str
    key: str
    started_ms: int
    status: Status
    ended_ms: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    records: Sequence[Record] = ()
    final_metrics: Mapping[str, float] = field(default_factory=dict)
    datasets: Sequence[Dataset] = ()
    artifacts: Sequence[tuple[str, str | None]] = ()
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    run_id: str | None = None
    parent_run_id: str | None = None


def replay(tracker: Tracker, snapshot: RunSnapshot) -> str | None:
    """Send a run; what the store has already is left as it is.

    Metrics go first and folders last, so that a server that dies on a large upload has the rest.

    Returns:
        MLflow's run id; None where the tracker could not reach its store.
    """
    run_id = tracker.start_run(
        snapshot.name,
        key=snapshot.key,
        run_id=snapshot.run_id,
        parent_run_id=snapshot.parent_run_id,
        params=snapshot.params,
        tags=snapshot.tags,
        started_ms=snapshot.started_ms,
    )
    if snapshot.records:
        tracker.log_missing_records(snapshot.records)
    if snapshot.final_metrics:
        time_ms = snapshot.started_ms if snapshot.ended_ms is None else snapshot.ended_ms
        tracker.log_metrics(snapshot.final_metrics, time_ms=time_ms)
    for dataset in snapshot.datasets:
        tracker.log_dataset(dataset)
    for file_name, columns in snapshot.tables.items():
        tracker.log_table(columns, file_name)
    for path, artifact_path in snapshot.artifacts:
        send = tracker.log_artifacts if Path(path).is_dir() else tracker.log_artifact
        send(path, artifact_path)
    if snapshot.status != "RUNNING":
        tracker.end_run(snapshot.status, ended_ms=snapshot.ended_ms)
    return run_id
