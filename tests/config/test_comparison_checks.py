"""Claims about what no comparison can do: it is refused when it is loaded, in one line."""

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


def of_rows(rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"one": {"title": "One", "rows": rows, **changes}}


def claimed(better: dict[str, Any], worse: dict[str, Any]) -> dict[str, Any]:
    return of_rows({"a": better, "b": worse}, claims=[{"better": "a", "worse": "b"}])


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


@pytest.mark.parametrize(
    ("key", "other"),
    [("evaluation.tasks", ["boolq"]), ("evaluation.max_rows", 4), ("data.dir", "elsewhere")],
)
def test_a_claim_between_cells_that_answer_other_questions_is_refused(key: str, other: Any) -> None:
    error = refused(tables=claimed(TASKS, {**TASKS, "method": "lora", key: other}))
    assert error.field == "tables.one.claims"
    assert f"a above b must be of cells with the same {key}" in error.rule
    assert error.got == {"a": TASKS.get(key), "b": other}


def test_a_claim_between_columns_that_answer_other_questions_is_refused() -> None:
    columns = {"few": {"evaluation.max_rows": 4}, "all": {}}
    claim = {"better": ["a", "all"], "worse": ["a", "few"]}
    error = refused(tables=of_rows({"a": TASKS}, columns=columns, claims=[claim]))
    assert error.got == {"a x all": None, "a x few": 4}


def test_a_claim_of_speed_may_be_of_rows_that_answer_other_questions() -> None:
    rows = {"a": TASKS, "b": {"method": "lora"}}
    claims = [{"better": "a", "worse": "b"}]
    make(tables=of_rows(rows, columns="speed", claims=claims))


def test_a_claim_may_be_of_other_prompts_other_decoding_and_tasks_in_another_order() -> None:
    for key, value in {
        "data.prompt": "legacy",
        "evaluation.num_beams": 4,
        "evaluation.base": False,
        "evaluation.tasks": ["piqa", "boolq"],
    }.items():
        make(tables=claimed(TASKS, {**TASKS, key: value}))


def test_rows_that_answer_other_questions_may_stand_in_one_table_unclaimed() -> None:
    make(tables=of_rows({"a": TASKS, "b": {**TASKS, "evaluation.max_rows": 4}}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("batching.mode", "padded"), ("resources.num_workers", 2), ("deepspeed.zero_stage", 1)],
)
def test_rows_that_differ_in_what_changes_no_result_are_one_run_and_refused(
    key: str, value: Any
) -> None:
    error = refused(tables=of_rows({"a": {}, "b": {key: value}}, columns="speed"))
    assert error.field == "tables.one.b"
    assert error.got == {key: value}
    assert f"tables.one.a is: {key} cannot change a result" in error.rule
    assert error.fix == "leave one of the two out, or set them alike"


def test_columns_and_tables_that_change_no_result_are_refused_too() -> None:
    workers = {"resources.num_workers": 2}
    error = refused(tables=of_rows({"a": {}}, columns={"1": {}, "2": workers}))
    assert error.field == "tables.one.a x 2"
    two = {"title": "Two", "rows": {"b": workers}}
    error = refused(tables={**of_rows({"a": {}}), "two": two})
    assert error.field == "tables.two.b"


def test_rows_apart_in_another_methods_settings_alone_are_refused() -> None:
    error = refused(tables=of_rows({"a": {}, "b": {"lora.rank": 4}}))
    assert list(error.got) == ["lora.rank"]


def test_one_run_may_stand_in_several_rows_tables_and_columns() -> None:
    budgets = {"1%": {"lora.budget": 0.01}, "2%": {"lora.budget": 0.02}}
    rows = {"full": {"method": "full"}, "lora": {"method": "lora"}}
    make(tables=of_rows(rows, columns=budgets))
    make(tables=of_rows({"a": {}, "b": {"method": "smt"}}))
    two = {"title": "Two", "rows": {"a": {"lora.rank": 4}}}
    make(tables={**of_rows({"a": {}}), "two": two})


def test_a_cell_that_cannot_be_a_run_is_refused_where_the_comparison_is_loaded() -> None:
    error = refused(run={**RUN, "seed": 0, "sead": 1})
    assert error.field == "tables.one.smt: sead"
    assert "did you mean seed?" in error.fix
