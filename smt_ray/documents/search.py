"""The documents of a search: ``search.json`` and ``trials.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from smt_ray.documents.base import Document
from smt_ray.documents.run import RunMetrics

TrialStatus = Literal["running", "finished", "stopped early", "failed"]

RUNNING: TrialStatus = "running"
FINISHED: TrialStatus = "finished"
STOPPED: TrialStatus = "stopped early"
FAILED: TrialStatus = "failed"

Point = dict[str, JsonValue]
"""Dotted key of the run -> its value."""


class TrialEntry(Document):
    """The status of a trial, updated during the search."""

    id: str
    """Ray Tune's name of the trial."""
    point: Point
    status: TrialStatus
    error: str = ""
    seconds: float | None = None


class TrialList(Document):
    """``trials.json``: the trials in the order of their starts."""

    trials: list[TrialEntry] = []


class TrialResult(Document):
    """A trial and its validation losses."""

    run: str | None = None
    """The name of its run; None if the point is not a valid configuration."""
    point: Point
    status: TrialStatus
    error: str = ""
    step: int | None = None
    """The step of the last validation."""
    loss: float | None = None
    """The last validation loss."""
    history: list[tuple[int, float]] = []
    """(step, validation loss) pairs."""
    ended_ms: int | None = None
    """The time of the last record, in milliseconds since the epoch."""
    seconds: float | None = None


class SearchDocument(Document):
    """``search.json``: the whole search."""

    name: str
    started_ms: int | None = None
    ended_ms: int | None = None
    trials: list[TrialResult]
    """The winner first, then by validation loss."""
    log_keys: list[str] = []
    """Keys that are drawn on a logarithmic scale."""
    winner: RunMetrics
    best_yaml: str = ""
    """The winner as a complete configuration file."""


class SearchSettings(Document):
    """``settings.json``: the settings that a search was first started with."""

    settings: dict[str, JsonValue]
    """The semantic settings of the search and, as ``run``, those of its first run."""
