"""What a comparison came to, made by hand."""

from __future__ import annotations

from typing import Any


def cell(value: float, **changes: Any) -> dict[str, Any]:
    """A cell whose runs are done."""
    return {
        "runs": ["good"],
        "errors": [],
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
        **changes,
    }


FASTER = {
    "better": "lora", "worse": "smt", "source": "Table 1", "unit": "times", "reason": "",
    "verdict": "not resolved", "difference": {"value": 2.0, "low": 0.5, "high": 8.0},
}  # fmt: skip

FAILED = {"runs": ["bad"], "errors": ["out of memory"], "learning_rate": 1e-3}


def table(columns: Any, rows: dict[str, Any], claims: Any = ()) -> dict[str, Any]:
    """A table of such cells."""
    return {"title": "Title", "columns": columns, "rows": rows, "claims": list(claims)}


def comparison_results() -> dict[str, Any]:
    """Every kind of table, a failed run, an answered claim."""
    of_cells = {"smt": {"": cell(0.5)}, "lora": {"": cell(0.25)}, "bad": {"": FAILED}}
    modules = [
        {"module": f"layers.{layer}.{name}", "chosen": chosen, "blocks": 4}
        for layer, name, chosen in ((0, "q_proj", 0), (0, "v_proj", 1), (1, "q_proj", 1),
                                    (1, "v_proj", 2))
    ]  # fmt: skip
    placed = {row: {"": {**cells[""]}} for row, cells in of_cells.items()}
    placed["smt"][""]["modules"] = modules
    claim = {"better": "smt", "worse": "lora", "source": "Table 2", "verdict": "held",
             "difference": {"value": 0.25, "low": 0.125, "high": 0.375}}  # fmt: skip
    grid = {"smt": {"1%": cell(0.5), "2%": cell(0.75)}, "lora": {"1%": cell(0.25), "2%": FAILED}}
    return {
        "name": "mine",
        "seeds": [0, 1],
        "started_ms": 1_700_000_000_000,
        "ended_ms": 1_700_000_360_000,
        "tables": {
            "methods": table("tasks", of_cells, [claim]),
            "speed": table("speed", of_cells, [FASTER]),
            "shares": table("projections", placed),
            "budgets": table(["1%", "2%"], grid),
        },
        "learning_rates": {"smt": {"chosen": 1e-3, "validation_loss": {"0.001": 0.5, "1": None}}},
        "runs": {
            "good": run(method="smt", accuracy=0.5, sets={"selection.budget": 0.05}),
            "other": run(method="lora", accuracy=0.25, reused=True),
            "bad": run(error="out of memory", seconds=None, accuracy=None),
        },
    }


def run(**changes: Any) -> dict[str, Any]:
    """A run of it."""
    return {
        "method": "full", "learning_rate": 1e-3, "seed": 0, "sets": {}, "accuracy": None,
        "seconds": 1.0, "reused": False, "error": "", "folder": "/kept/runs/one", **changes,
    }  # fmt: skip
