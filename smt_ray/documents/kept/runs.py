"""The documents that ``smt-ray runs --json`` and ``smt-ray diff --json`` print."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from smt_ray.documents.base import Document
from smt_ray.documents.run import Status

ListedStatus = Status | Literal["INTERRUPTED", "DAMAGED"]
"""The status of a run; INTERRUPTED if its process ended without writing one."""

Pair = tuple[JsonValue, JsonValue]
"""The values of both runs; None for a value that a run does not have."""


class RunSummary(Document):
    """A run of a storage in one line."""

    name: str
    status: ListedStatus | None = None
    problem: str = ""
    """Why its documents cannot be read."""
    method: str | None = None
    model: str | None = None
    data: list[str] = []
    """The sources of its training rows."""
    base_accuracy: float | None = None
    """The average accuracy of the base model over the tasks, as a fraction."""
    accuracy: float | None = None
    """The average accuracy of the tuned model over the tasks, as a fraction."""
    validation_loss: float | None = None
    """The last validation loss."""
    started_ms: int | None = None
    """Milliseconds since the epoch."""
    seconds: float | None = None
    """The duration of its last start."""
    num_bytes: int = 0
    """The bytes of its folder and of all its stages, which other runs may share."""


class RunList(Document):
    """The runs of a storage, the latest first."""

    storage: str
    num_bytes: int
    """The bytes of all runs together, with shared stages counted once."""
    runs: list[RunSummary]


class RunDifference(Document):
    """What differs between two runs."""

    a: str
    b: str
    settings: dict[str, Pair] = {}
    """Dotted key of the configuration that changes results -> its values."""
    execution: dict[str, Pair] = {}
    """Dotted key of the configuration that changes no result -> its values."""
    rows: dict[str, Pair] = {}
    """Data set -> the fingerprints of its rows."""
    versions: dict[str, Pair] = {}
    """Package -> its versions."""
    figures: dict[str, Pair] = {}
    """Name of a result -> its values."""
