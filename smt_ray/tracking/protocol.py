"""The interface of trackers, which the MLflow tracker and the robust tracker share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from smt_ray.documents.run import Dataset, Record, Status


class RejectedError(Exception):
    """The store refused a call, and would refuse it again."""


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """What starts a tracked run, or continues the one of this ``run_id`` or, without it, ``key``.

    Attributes:
        name: The name that the list of runs shows.
        key: The permanent name of the run, such as its storage, its name and the time of its start;
            "" for none.
        started_ms: The start of a new run, in milliseconds since the epoch; None for now.
        run_id: The tracker's id of the run, if known.
        parent_run_id: The tracker's id of the search or comparison that the run belongs to.
        params: The flat parameters; a parameter that has a value keeps it.
        tags: The tags, which replace earlier values. ``user``, ``source`` (the program) and
            ``description`` (Markdown) have their own places in most trackers.
    """

    name: str
    key: str = ""
    started_ms: int | None = None
    run_id: str | None = None
    parent_run_id: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Writes one run at a time. Every call may be repeated."""

    def start_run(self, start: RunStart) -> str | None:
        """Starts a run, or continues it; returns its id, or None if no store can be reached."""
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

    def log_model(self, directory: str, name: str) -> None:
        """Sends a plain transformers model, a local folder, so that it can be registered."""
        ...

    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Sends a table, which MLflow's pages show and compare."""
        ...

    def end_run(self, status: Status = "FINISHED", *, ended_ms: int | None = None) -> None:
        """Ends the run, at a time in milliseconds since the epoch; by default now."""
        ...
