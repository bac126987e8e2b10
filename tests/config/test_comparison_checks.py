"""Claims about what no comparison can do: it is refused when it is loaded, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.errors import UserError
from tests.config.test_comparison import RUN, WITH_VALIDATION, make


def refused(**changes: Any) -> UserError:
    with pytest.raises(UserError) as refusal:
        make(**changes)
    return refusal.value


def test_learning_rates_need_validation_rows_to_be_chosen_by() -> None:
    rates = {"smt": [1e-3], "lora": [1e-3]}
    error = refused(learning_rates=rates)
    assert (error.field, error.got) == ("run.data.validation_rows", 0)
    assert "120" in error.fix
    assert make(run=WITH_VALIDATION, learning_rates=rates).tuning_runs()


def test_learning_rates_name_methods_that_cells_have() -> None:
    error = refused(run=WITH_VALIDATION, learning_rates={"lorra": [1e-3]})
    assert (error.field, error.got, error.fix) == ("learning_rates", "lorra", "did you mean lora?")
    assert "which are lora, smt" in error.rule
    error = refused(run=WITH_VALIDATION, learning_rates={"full": [1e-3]})
    assert error.fix == "leave it out, or add a row of it"


def test_a_bad_learning_rate_is_named_with_its_method() -> None:
    error = refused(run=WITH_VALIDATION, learning_rates={"smt": [1e-3, -1.0]})
    assert error.field == "learning_rates.smt: training.learning_rate"


@pytest.mark.parametrize(
    ("changes", "field", "got"),
    [
        ({"seeds": [0, 1, 0]}, "seeds", [0, 1, 0]),
        ({"learning_rates": {"smt": [1e-3, 0.001]}}, "learning_rates.smt", [1e-3, 1e-3]),
    ],
)
def test_a_number_that_stands_there_twice_is_refused(
    changes: dict[str, Any], field: str, got: list[float]
) -> None:
    error = refused(**{"run": WITH_VALIDATION, **changes})
    assert (error.field, error.got) == (field, got)
    assert error.rule == "each number must stand there once"


def test_a_cell_that_cannot_be_a_run_is_refused_where_the_comparison_is_loaded() -> None:
    error = refused(run={**RUN, "seed": 0, "sead": 1})
    assert error.field == "tables.one.smt: sead"
    assert "did you mean seed?" in error.fix
