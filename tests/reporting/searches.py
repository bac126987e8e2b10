"""Trials of a search, made by hand."""

from __future__ import annotations

from typing import Any


def trial(run: str | None, status: str, loss: float | None, **changes: Any) -> dict[str, Any]:
    """A trial of two keys."""
    values: dict[str, Any] = {
        "run": run, "status": status, "loss": loss, "error": "", "step": 4, "seconds": 75.0,
        "point": {"selection.block_size": 8, "training.learning_rate": 0.0012345},
        "history": [] if loss is None else [(2, loss + 1), (4, loss)],
    }  # fmt: skip
    return {**values, **changes}


def three_trials() -> list[dict[str, Any]]:
    """One of each kind."""
    return [
        trial("s-1", "finished", 0.512345),
        trial("s-2", "stopped early", 0.9, step=2),
        trial(None, "failed", None, step=None, seconds=None, error="out of | memory"),
    ]
