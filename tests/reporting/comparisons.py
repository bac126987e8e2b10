"""The document of a comparison, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smt_ray.documents.comparison import (
    CellResult,
    ClaimResult,
    ComparisonDocument,
    RunLine,
    TableResult,
    WeightBlocks,
)


def cell(value: float, **changes: Any) -> CellResult:
    """A cell whose runs are finished."""
    values = {
        "runs": ["good"],
        "learning_rate": 1e-3,
        "percent_of_base": 0.84,
        "validation_loss": 2.0 * value,
        "step_seconds": value,
        "step_seconds_by_seed": [value / 2, value * 2],
        "batching": "packed",
        "projections": {"q_proj": 1, "v_proj": 3},
        "shares": [{"q_proj": 0.25, "v_proj": 0.75}, {"q_proj": 0.5, "v_proj": 0.5}],
        "tasks": {"boolq": value, "piqa": value},
        "task_intervals": {task: [value - 0.15, value + 0.15] for task in ("boolq", "piqa")},
        "average": {"value": value, "low": value - 0.1, "high": value + 0.1},
        "by_seed": [value, value],
    }
    return CellResult.model_validate({**values, **changes})


def run(**changes: Any) -> RunLine:
    """A finished run."""
    values = {"method": "full", "learning_rate": 1e-3, "seconds": 1.0, "folder": "/kept/runs/one"}
    return RunLine.model_validate({**values, **changes})


def claim(better: str, worse: str, **changes: Any) -> ClaimResult:
    """A claim that is not resolved."""
    values = {"better": better, "worse": worse, "verdict": "not resolved"}
    return ClaimResult.model_validate({**values, **changes})


def table(
    columns: Any, rows: Mapping[str, Mapping[str, CellResult]], claims: Sequence[ClaimResult] = ()
) -> TableResult:
    """A table of some cells."""
    return TableResult.model_validate(
        {"title": "Title", "columns": columns, "rows": rows, "claims": list(claims)}
    )


FAILED = CellResult(runs=["bad"], errors=["out of memory"], learning_rate=1e-3)

HELD = claim(
    "smt",
    "lora",
    source="Table 2",
    verdict="held",
    difference={"value": 0.25, "low": 0.125, "high": 0.375},
)

FASTER = claim(
    "lora",
    "smt",
    source="Table 1",
    unit="times",
    difference={"value": 2.0, "low": 0.5, "high": 8.0},
)

WEIGHTS = [
    WeightBlocks(module="layers.0.q_proj", chosen=0, blocks=4),
    WeightBlocks(module="layers.0.v_proj", chosen=1, blocks=4),
    WeightBlocks(module="layers.1.q_proj", chosen=1, blocks=4),
    WeightBlocks(module="layers.1.v_proj", chosen=2, blocks=4),
]


def comparison_results(**changes: Any) -> ComparisonDocument:
    """Every kind of table, a failed run and two claims."""
    rows = {"smt": {"": cell(0.5)}, "lora": {"": cell(0.25)}, "bad": {"": FAILED}}
    with_weights = {**rows, "smt": {"": cell(0.5, modules=WEIGHTS)}}
    grid = {"smt": {"1%": cell(0.5), "2%": cell(0.75)}, "lora": {"1%": cell(0.25), "2%": FAILED}}
    values = {
        "name": "mine",
        "seeds": [0, 1],
        "started_ms": 1_700_000_000_000,
        "ended_ms": 1_700_000_360_000,
        "tables": {
            "methods": table("tasks", rows, [HELD]),
            "speed": table("speed", rows, [FASTER]),
            "shares": table("projections", with_weights),
            "budgets": table(["1%", "2%"], grid),
        },
        "learning_rates": {"smt": {"chosen": 1e-3, "validation_loss": {"0.001": 0.5, "1": None}}},
        "runs": {
            "good": run(method="smt", accuracy=0.5, sets={"selection.budget": 0.05}),
            "other": run(method="lora", accuracy=0.25, reused=True),
            "bad": run(error="out of memory", seconds=None),
        },
    }
    return ComparisonDocument.model_validate({**values, **changes})
