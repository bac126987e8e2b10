"""What a tracker can do: the small interface that the MLflow and the robust tracker share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from smt_ray.documents.run import Dataset, Status
from smt_ray.tracking.records import Record


class RejectedError(Exception):
    """The store answered no: asking again would get the same answer."""


class Tracker(Protocol):
    """One run at a time, written by one writer. Every call may be repeated without harm."""

    def start_run(
        self,
        run_name: str,
        *,
        key: str | None = None,
        run_id: str | None = None,
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        started_ms: int | None = None,
    ) -> str | None:
        """Begin a run, or go on with the one of this ``run_id``, else of this ``key``.

        Args:
            run_name: Shown in the list of runs.
            key: What names this run for ever; kept as the tag ``smt_ray.key``.
            run_id: MLflow's id of the run to go on with.
            parent_run_id: The run that this one is part of; may live in another process.
            params: Flat.
            tags: Such as method and model.
            started_ms: When the run began, for a new one; None is now.

        Returns:
            MLflow's run id; None where the store can not be reached.
        """
        ...

    def log_records(self, records: Sequence[Record]) -> None:
        """Send records."""
        ...

    def log_missing_records(self, records: Sequence[Record]) -> None:
        """Send those of the records that the store does not have."""
        ...

    def log_metrics(
        self, metrics: Mapping[str, float], step: int = 0, *, time_ms: int | None = None
    ) -> None:
        """Send metrics of one moment."""
        ...

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Send parameters; one that has another value already keeps it."""
        ...

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        ...

    def log_dataset(self, dataset: Dataset) -> None:
        """Name rows that the run read."""
        ...

    def log_artifact(self, path: str, artifact_path: str | None = None) -> None:
        """Send one local file."""
        ...

    def log_artifacts(self, directory: str, artifact_path: str | None = None) -> None:
        """Send a local folder."""
        ...

    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Send a table that the interface shows and compares."""
        ...

    def end_run(self, status: Status = "FINISHED", *, ended_ms: int | None = None) -> None:
        """Close the run."""
        ...
