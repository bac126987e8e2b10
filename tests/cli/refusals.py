"""What tests of refused commands share: what a line must name, and a stage to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smt_ray.artifacts.stages import Stage

Refused = Callable[..., str]
"""Runs a command that must be refused; gives its error line without ``error: ``."""


def assert_names(line: str, *parts: str) -> None:
    for part in parts:
        assert part in line, f"{part!r} is not in: {line}"


def finish(stage: Stage, file: str, summary: dict[str, Any]) -> str:
    """Makes a stage look finished; gives the URI of its one artifact."""
    stage.storage.write_bytes(stage.path(file), b"what was computed")
    stage.publish([file], summary, 1.0)
    return stage.storage.uri(stage.path(file))
