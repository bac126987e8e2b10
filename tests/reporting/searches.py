"""The document of a search, made by hand."""

from __future__ import annotations

from typing import Any

from smt_ray.documents.run import RunMetrics
from smt_ray.documents.search import FAILED, FINISHED, STOPPED, SearchDocument, TrialResult

POINT = {"selection.block_size": 8, "training.learning_rate": 0.0012345}


def trial(run: str | None, status: str, loss: float | None, **changes: Any) -> TrialResult:
    """A trial of two keys."""
    values: dict[str, Any] = {
        "run": run, "status": status, "loss": loss, "step": 4, "seconds": 75.0, "point": POINT,
        "history": [] if loss is None else [(2, loss + 1), (4, loss)],
    }  # fmt: skip
    return TrialResult.model_validate({**values, **changes})


def three_trials(**changes: Any) -> list[TrialResult]:
    """A finished, a stopped and a failed trial."""
    failed = {"step": None, "seconds": None, "error": "out of | memory", **changes}
    return [
        trial("s-1", FINISHED, 0.512345, **changes),
        trial("s-2", STOPPED, 0.9, **{"step": 2, **changes}),
        trial(None, FAILED, None, **failed),
    ]


def search_results(**changes: Any) -> SearchDocument:
    """A search of three trials."""
    values = {
        "name": "mine",
        "started_ms": 1_700_000_000_000,
        "ended_ms": 1_700_000_360_000,
        "trials": three_trials(),
        "log_keys": ["training.learning_rate"],
        "winner": RunMetrics(),
        "best_yaml": "# smt-ray run best.yaml\nseed: 3\n",
    }
    return SearchDocument.model_validate({**values, **changes})
