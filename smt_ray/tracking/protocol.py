"""The interface of trackers, which the MLflow tracker and the robust tracker share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from smt_ray.documents.run import Dataset, Status
from smt_ray.tracking.records import Record


class RejectedError(Exception):
    """The store refused a call, and would refuse it again."""


class Tracker(Protocol):
    """Writes one run at a time. Every call may be repeated."""

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
        """Starts a run, or continues the run of this ``run_id`` or, without one, of this ``key``.

        Args:
            run_name: The name that the list of runs shows.
            key: The permanent name of the run, which is kept as the tag ``smt_ray.key``.
            run_id: MLflow's id of the run to continue.
            parent_run_id: MLflow's id of the search or comparison that the run belongs to.
            params: The flat parameters; a parameter that has a value keeps it.
            tags: The tags, which replace earlier values. ``user``, ``source`` (the program) and
                ``description`` (Markdown) have their own places in most trackers.
            started_ms: The start of a new run, in milliseconds since the epoch; None for now.

        Returns:
            MLflow's id of the run; None if the store cannot be reached.
        """
        ...

    def log_records(self, records: Sequence[Record]) -> None:
        """Sends records, each value with its own time and step."""
        ...

    def log_missing_records(self, records: Sequence[Record]) -> None:
        """Sends the records that the store does not have."""
        ...

    def log_dataset(self, dataset: Dataset) -> None:
        """Sends the name, source and digest of rows that the run read."""
        ...

    def log_artifact(self, path: str, artifact_path: str | None = None) -> None:
        """Sends a local file to a folder among the artifacts; None for the top."""
        ...

    def log_artifacts(self, directory: str, artifact_path: str | None = None) -> None:
        """Sends the files of a local folder to a folder among the artifacts; None for the top."""
        ...

    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Sends a table, which MLflow's pages show and compare."""
        ...

    def end_run(self, status: Status = "FINISHED", *, ended_ms: int | None = None) -> None:
        """Ends the run, at a time in milliseconds since the epoch; by default now."""
        ...
