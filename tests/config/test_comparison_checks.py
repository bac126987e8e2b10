"""Claims about comparisons that cannot work: each is refused when it is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.errors import UserError
from tests.config.test_comparison import RUN, WITH_VALIDATION, make

TASKS = {"evaluation.tasks": ["boolq", "piqa"], "data.dir": "rows"}


def refused(**changes: Any) -> UserError:
    with pytest.raises(UserError) as refusal:
        make(**changes)
    return refusal.value


def table_of(rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"one": {"title": "One", "rows": rows, **changes}}


def claim_between(better: dict[str, Any], worse: dict[str, Any]) -> dict[str, Any]:
    return table_of({"a": better, "b": worse}, claims=[{"better": "a", "worse": "b"}])


def test_learning_rates_need_validation_rows() -> None:
    rates = {"smt": [1e-3], "lora": [1e-3]}
    error = refused(learning_rates=rates)
    assert (error.field, error.got) == ("run.data.validation_rows", 0)
    assert "120" in error.fix
    assert make(run=WITH_VALIDATION, learning_rates=rates).tuning_runs()


def test_learning_rates_name_methods_of_the_tables() -> None:
    error = refused(run=WITH_VALIDATION, learning_rates={"lorra": [1e-3]})
    assert (error.field, error.got, error.fix) == ("learning_rates", "lorra", "did you mean lora?")
    assert "methods of the tables (lora, smt)" in error.rule
    error = refused(run=WITH_VALIDATION, learning_rates={"full": [1e-3]})
    assert error.fix == "remove it, or add a row that uses it"


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
def test_duplicate_seeds_and_learning_rates_are_refused(
    changes: dict[str, Any], field: str, got: list[float]
) -> None:
    error = refused(**{"run": WITH_VALIDATION, **changes})
    assert (error.field, error.got) == (field, got)
    assert error.rule == "contains a duplicate"


@pytest.mark.parametrize(
    ("key", "other"),
    [("evaluation.tasks", ["boolq"]), ("evaluation.max_rows", 4), ("data.dir", "elsewhere")],
)
def test_a_claim_between_rows_that_answer_different_questions_is_refused(
    key: str, other: Any
) -> None:
    error = refused(tables=claim_between(TASKS, {**TASKS, "method": "lora", key: other}))
    assert error.field == "tables.one.claims"
    assert f"a and b must have the same {key}" in error.rule
    assert error.got == {"a": TASKS.get(key), "b": other}


def test_a_claim_between_columns_that_answer_different_questions_is_refused() -> None:
    columns = {"few": {"evaluation.max_rows": 4}, "all": {}}
    claim = {"better": ["a", "all"], "worse": ["a", "few"]}
    error = refused(tables=table_of({"a": TASKS}, columns=columns, claims=[claim]))
    assert error.got == {"a x all": None, "a x few": 4}


def test_a_claim_of_speed_may_compare_rows_that_answer_different_questions() -> None:
    rows = {"a": TASKS, "b": {"method": "lora"}}
    claims = [{"better": "a", "worse": "b"}]
    make(tables=table_of(rows, columns="speed", claims=claims))


def test_the_cells_of_a_claim_may_differ_in_prompts_decoding_and_order_of_tasks() -> None:
    for key, value in {
        "data.prompt": "legacy",
        "evaluation.num_beams": 4,
        "evaluation.base": False,
        "evaluation.tasks": ["piqa", "boolq"],
    }.items():
        make(tables=claim_between(TASKS, {**TASKS, key: value}))


def test_rows_without_a_claim_may_answer_different_questions() -> None:
    make(tables=table_of({"a": TASKS, "b": {**TASKS, "evaluation.max_rows": 4}}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("batching.mode", "padded"), ("resources.num_workers", 2), ("deepspeed.zero_stage", 1)],
)
def test_rows_that_differ_only_in_execution_keys_are_refused(key: str, value: Any) -> None:
    error = refused(tables=table_of({"a": {}, "b": {key: value}}, columns="speed"))
    assert error.field == "tables.one.b"
    assert error.got == {key: value}
    assert f"same run as tables.one.a, because {key} cannot change a result" in error.rule
    assert error.fix == "remove one of the two cells, or give both the same settings"


def test_columns_and_tables_that_differ_only_in_execution_keys_are_refused() -> None:
    workers = {"resources.num_workers": 2}
    error = refused(tables=table_of({"a": {}}, columns={"1": {}, "2": workers}))
    assert error.field == "tables.one.a x 2"
    two = {"title": "Two", "rows": {"b": workers}}
    error = refused(tables={**table_of({"a": {}}), "two": two})
    assert error.field == "tables.two.b"


def test_rows_that_differ_only_in_settings_of_another_method_are_refused() -> None:
    error = refused(tables=table_of({"a": {}, "b": {"lora.rank": 4}}))
    assert list(error.got) == ["lora.rank"]


def test_a_run_may_appear_in_several_rows_tables_and_columns() -> None:
    budgets = {"1%": {"lora.budget": 0.01}, "2%": {"lora.budget": 0.02}}
    rows = {"full": {"method": "full"}, "lora": {"method": "lora"}}
    make(tables=table_of(rows, columns=budgets))
    make(tables=table_of({"a": {}, "b": {"method": "smt"}}))
    two = {"title": "Two", "rows": {"a": {"lora.rank": 4}}}
    make(tables={**table_of({"a": {}}), "two": two})


def test_a_cell_with_a_bad_key_is_refused_when_the_comparison_is_loaded() -> None:
    error = refused(run={**RUN, "seed": 0, "sead": 1})
    assert error.field == "tables.one.smt: sead"
    assert "did you mean seed?" in error.fix
