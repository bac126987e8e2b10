"""Claims are answered by what their table measures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from smt_ray.comparison.claims import Measured, answer_claims
from smt_ray.config.comparison import TableConfig
from smt_ray.config.load import validate_section

ROWS: dict[str, Any] = {"smt": {}, "lora": {"method": "lora"}}


def answer(columns: Any, better: Any, worse: Any, measured: Any) -> dict[str, Any]:
    values = {
        "title": "", "rows": ROWS, "columns": columns,
        "claims": [{"better": better, "worse": worse, "source": "Table 9"}],
    }  # fmt: skip
    (found,) = answer_claims(validate_section(TableConfig, values), measured)
    return found


def answers(share: float) -> Measured:
    """Of two seeds on 100 rows, the same share right."""
    return Measured(correct={"task": np.tile(np.arange(100) < 100 * share, (2, 1))})


def test_tables_of_tasks_and_of_settings_are_answered_by_accuracy() -> None:
    measured = {("smt", ""): answers(0.9), ("lora", ""): answers(0.4)}
    found = answer("tasks", "smt", "lora", measured)
    assert (found["better"], found["worse"], found["unit"]) == ("smt", "lora", "points")
    assert found["verdict"] == "held"
    assert found["difference"]["value"] == pytest.approx(0.5)
    columns = {"1%": {}, "2%": {}}
    measured = {("lora", "1%"): answers(0.9), ("lora", "2%"): answers(0.4)}
    found = answer(columns, ["lora", "2%"], ["lora", "1%"], measured)
    assert (found["better"], found["worse"]) == ("lora (2%)", "lora (1%)")
    assert found["verdict"] == "reversed"


def test_a_table_of_speed_is_answered_by_seconds_whatever_the_accuracies() -> None:
    """Less time is better; seeds are paired, so that a slow hour moves no ratio."""
    smt = Measured(answers(0.1).correct, step_seconds=[1.0, 10.0, 5.0])
    lora = Measured(answers(0.9).correct, step_seconds=[2.0, 19.0, 11.0])
    measured = {("smt", ""): smt, ("lora", ""): lora}
    found = answer("speed", "smt", "lora", measured)
    assert (found["verdict"], found["unit"]) == ("held", "times")
    assert found["difference"]["value"] == pytest.approx((2.0 * 1.9 * 2.2) ** (1 / 3))
    assert 1 < found["difference"]["low"] < found["difference"]["value"]
    assert answer("speed", "lora", "smt", measured)["verdict"] == "reversed"


def test_a_table_of_projections_is_answered_by_their_shares() -> None:
    shares = [{"q_proj": 0.1, "v_proj": 0.9}, {"q_proj": 0.2, "v_proj": 0.8},
              {"q_proj": 0.1, "v_proj": 0.9}]  # fmt: skip
    measured = {("smt", ""): Measured(shares=shares)}
    found = answer("projections", ["smt", "v_proj"], ["smt", "q_proj"], measured)
    assert found["better"] == "smt (v_proj)"
    assert found["verdict"] == "held"
    assert found["difference"]["value"] == pytest.approx(np.mean([0.8, 0.6, 0.8]))
    missing = answer("projections", ["smt", "v_prj"], ["smt", "q_proj"], measured)
    assert (missing["verdict"], missing["reason"]) == ("not resolved", "smt has no v_prj")


@pytest.mark.parametrize("columns", ["tasks", "speed", "projections"])
def test_a_run_that_failed_leaves_a_claim_open(columns: str) -> None:
    sides = [["smt", "v_proj"], ["lora", "v_proj"]] if columns == "projections" else ["smt", "lora"]
    measured = {("smt", ""): Measured(answers(0.5).correct, [1.0], [{"v_proj": 1.0}])}
    found = answer(columns, *sides, measured)
    assert (found["verdict"], found["reason"]) == ("not resolved", "a run failed")


def test_a_single_seed_resolves_neither_speed_nor_shares() -> None:
    one = {("smt", ""): Measured(step_seconds=[1.0], shares=[{"q_proj": 0.1, "v_proj": 0.9}]),
           ("lora", ""): Measured(step_seconds=[math.e])}  # fmt: skip
    for found in (
        answer("speed", "smt", "lora", one),
        answer("projections", ["smt", "v_proj"], ["smt", "q_proj"], one),
    ):
        assert (found["verdict"], found["reason"]) == ("not resolved", "one seed tells of no other")
