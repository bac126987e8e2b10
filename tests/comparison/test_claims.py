"""Claims are answered by the measurements that their table shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from smt_ray.comparison.claims import ONE_SEED, answer_claims
from smt_ray.comparison.measured import Measured
from smt_ray.config.comparison import TableConfig
from smt_ray.config.load import validate_section
from smt_ray.documents.comparison import ClaimResult, Interval

ROWS: dict[str, Any] = {"smt": {}, "lora": {"method": "lora"}}


def answer(columns: Any, better: Any, worse: Any, measured: Any) -> ClaimResult:
    values = {
        "title": "", "rows": ROWS, "columns": columns,
        "claims": [{"better": better, "worse": worse, "source": "Table 9"}],
    }  # fmt: skip
    (found,) = answer_claims(validate_section(TableConfig, values), measured)
    return found


def difference(found: ClaimResult) -> Interval:
    assert found.difference is not None
    return found.difference


def answers(share: float) -> Measured:
    """Two seeds that answer the same share of 100 rows correctly."""
    return Measured(correct={"task": np.tile(np.arange(100) < 100 * share, (2, 1))})


def test_claims_of_tables_of_tasks_and_settings_compare_accuracies() -> None:
    measured = {("smt", ""): answers(0.9), ("lora", ""): answers(0.4)}
    found = answer("tasks", "smt", "lora", measured)
    assert (found.better, found.worse, found.unit) == ("smt", "lora", "points")
    assert found.source == "Table 9"
    assert found.verdict == "held"
    assert difference(found).value == pytest.approx(0.5)
    columns = {"1%": {}, "2%": {}}
    measured = {("lora", "1%"): answers(0.9), ("lora", "2%"): answers(0.4)}
    found = answer(columns, ["lora", "2%"], ["lora", "1%"], measured)
    assert (found.better, found.worse) == ("lora (2%)", "lora (1%)")
    assert found.verdict == "reversed"


def test_claims_of_a_table_of_speed_compare_seconds_whatever_the_accuracies() -> None:
    """Less time is better. Seeds are paired, so a slow hour of the machine changes no ratio."""
    smt = Measured(answers(0.1).correct, step_seconds=[1.0, 10.0, 5.0])
    lora = Measured(answers(0.9).correct, step_seconds=[2.0, 19.0, 11.0])
    measured = {("smt", ""): smt, ("lora", ""): lora}
    found = answer("speed", "smt", "lora", measured)
    assert (found.verdict, found.unit) == ("held", "times")
    assert difference(found).value == pytest.approx((2.0 * 1.9 * 2.2) ** (1 / 3))
    assert 1 < difference(found).low < difference(found).value
    assert answer("speed", "lora", "smt", measured).verdict == "reversed"


def test_claims_of_a_table_of_projections_compare_shares() -> None:
    shares = [{"q_proj": 0.1, "v_proj": 0.9}, {"q_proj": 0.2, "v_proj": 0.8},
              {"q_proj": 0.1, "v_proj": 0.9}]  # fmt: skip
    measured = {("smt", ""): Measured(shares=shares)}
    found = answer("projections", ["smt", "v_proj"], ["smt", "q_proj"], measured)
    assert found.better == "smt (v_proj)"
    assert found.verdict == "held"
    assert difference(found).value == pytest.approx(np.mean([0.8, 0.6, 0.8]))
    missing = answer("projections", ["smt", "v_prj"], ["smt", "q_proj"], measured)
    assert (missing.verdict, missing.reason) == ("not resolved", "smt has no v_prj")


@pytest.mark.parametrize("columns", ["tasks", "speed", "projections"])
def test_a_claim_is_not_resolved_if_a_run_failed(columns: str) -> None:
    sides = [["smt", "v_proj"], ["lora", "v_proj"]] if columns == "projections" else ["smt", "lora"]
    measured = {("smt", ""): Measured(answers(0.5).correct, [1.0], [{"v_proj": 1.0}])}
    found = answer(columns, *sides, measured)
    assert (found.verdict, found.reason) == ("not resolved", "a run failed")


def test_one_seed_resolves_neither_speed_nor_shares() -> None:
    one = {("smt", ""): Measured(step_seconds=[1.0], shares=[{"q_proj": 0.1, "v_proj": 0.9}]),
           ("lora", ""): Measured(step_seconds=[math.e])}  # fmt: skip
    for found in (
        answer("speed", "smt", "lora", one),
        answer("projections", ["smt", "v_proj"], ["smt", "q_proj"], one),
    ):
        assert (found.verdict, found.reason) == ("not resolved", ONE_SEED)
