"""A comparison's tables, files and pictures say what its cells hold."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from smt_ray.reporting.comparison import claim_text, table_lines, to_csv, to_markdown
from smt_ray.reporting.comparison_figures import draw_table


def cell(value: float, **changes: Any) -> dict[str, Any]:
    return {
        "runs": ["r"],
        "errors": [],
        "learning_rate": 1e-3,
        "percent_of_base": 0.84,
        "step_seconds": value,
        "projections": {"q_proj": 1, "v_proj": 3},
        "tasks": {"boolq": value, "piqa": value},
        "average": {"value": value, "low": value - 0.1, "high": value + 0.1},
        "by_seed": [value, value],
        **changes,
    }


FAILED = {"runs": ["bad"], "errors": ["out of memory"], "learning_rate": 1e-3}


def table(columns: Any, rows: dict[str, Any], claims: Any = ()) -> dict[str, Any]:
    return {"title": "Title", "columns": columns, "rows": rows, "claims": list(claims)}


@pytest.fixture
def results() -> dict[str, Any]:
    of_cells = {"smt": {"": cell(0.5)}, "lora": {"": cell(0.25)}, "bad": {"": FAILED}}
    claim = {"better": "smt", "worse": "lora", "source": "Table 2", "verdict": "held",
             "difference": {"value": 0.25, "low": 0.125, "high": 0.375}}  # fmt: skip
    grid = {"smt": {"1%": cell(0.5), "2%": cell(0.75)}, "lora": {"1%": cell(0.25), "2%": FAILED}}
    return {
        "name": "mine",
        "seeds": [0, 1],
        "tables": {
            "methods": table("tasks", of_cells, [claim]),
            "speed": table("speed", of_cells),
            "shares": table("projections", of_cells),
            "budgets": table(["1%", "2%"], grid),
        },
        "learning_rates": {"smt": {"chosen": 1e-3, "validation_loss": {"0.001": 0.5, "1": None}}},
        "runs": {"r": {"error": "", "seconds": 1.0}, "bad": {"error": "out of memory"}},
    }


def test_a_table_of_tasks_has_every_accuracy_the_average_and_the_seeds(
    results: dict[str, Any],
) -> None:
    assert table_lines(results["tables"]["methods"]) == [
        ["", "learning rate", "% of base", "boolq", "piqa", "average", "by seed"],
        ["smt", "0.001", "0.840", "50.0", "50.0", "50.0 (40.0 to 60.0)", "50.0 50.0"],
        ["lora", "0.001", "0.840", "25.0", "25.0", "25.0 (15.0 to 35.0)", "25.0 25.0"],
        ["bad", "0.001", "-", "-", "-", "failed", ""],
    ]


def test_tables_of_speed_shares_and_settings(results: dict[str, Any]) -> None:
    tables = results["tables"]
    assert table_lines(tables["speed"])[1:] == [
        ["smt", "0.500", "1.00"], ["lora", "0.250", "2.00"], ["bad", "-", "-"],
    ]  # fmt: skip
    assert table_lines(tables["shares"]) == [
        ["", "q_proj", "v_proj"], ["smt", "25.0%", "75.0%"], ["lora", "25.0%", "75.0%"],
        ["bad", "-", "-"],
    ]  # fmt: skip
    assert table_lines(tables["budgets"]) == [
        ["", "1%", "2%"],
        ["smt", "50.0 (40.0 to 60.0)", "75.0 (65.0 to 85.0)"],
        ["lora", "25.0 (15.0 to 35.0)", "failed"],
    ]


def test_claims_are_answered_in_points(results: dict[str, Any]) -> None:
    (claim,) = results["tables"]["methods"]["claims"]
    assert claim_text(claim) == (
        "smt above lora (Table 2): **held**, +25.0 points (+12.5 to +37.5)"
    )
    unresolved = {"better": "a", "worse": "b", "source": "", "verdict": "not resolved"}
    assert claim_text(unresolved) == "a above b: **not resolved**"


def test_a_csv_has_the_tables_cells_and_failures_are_named(results: dict[str, Any]) -> None:
    for of_table in results["tables"].values():
        assert list(csv.reader(io.StringIO(to_csv(of_table)))) == table_lines(of_table)
    text = to_markdown(results)
    assert "- bad: out of memory" in text
    assert "| smt | 0.001: 0.5000, 1: - | 0.001 |" in text
    assert "smt above lora (Table 2): **held**" in text


def test_every_kind_of_table_has_a_picture(results: dict[str, Any], tmp_path: Path) -> None:
    for name, of_table in results["tables"].items():
        picture = draw_table(of_table, tmp_path / f"{name}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
