"""Claims about comparisons: the runs of their cells, and bad configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.comparison import ComparisonConfig, load_comparison
from smt_ray.config.load import validate_section
from smt_ray.errors import UserError

TINY = Path(__file__).parents[2] / "configs" / "compare" / "tiny.yaml"
DATA = {"train": ["builtin:tiny_arithmetic"]}
RUN = {"model": {"builtin": "tiny"}, "data": DATA}
WITH_VALIDATION = {**RUN, "data": {**DATA, "validation_rows": 8}}


def make(**changes: Any) -> ComparisonConfig:
    values = {
        "name": "mine",
        "run": RUN,
        "tables": {"one": {"title": "One", "rows": {"smt": {}, "lora": {"method": "lora"}}}},
        **changes,
    }
    return validate_section(ComparisonConfig, values)


def test_a_cell_has_a_run_for_each_seed_with_the_settings_of_its_row_and_column() -> None:
    table = {
        "title": "Budgets",
        "rows": {"smt": {}, "lora": {"method": "lora"}},
        "columns": {"1%": {"selection.budget": 0.01, "lora.budget": 0.01},
                    "2%": {"selection.budget": 0.02, "lora.budget": 0.02}},
    }  # fmt: skip
    comparison = make(seeds=[3, 4], tables={"budgets": table})
    cells = {(cell.row, cell.column): cell.runs for cell in comparison.cell_runs({})}
    assert list(cells) == [("smt", "1%"), ("smt", "2%"), ("lora", "1%"), ("lora", "2%")]
    assert [run.seed for run in cells["smt", "2%"]] == [3, 4]
    assert {run.selection.budget for run in cells["smt", "2%"]} == {0.02}
    assert {(run.method, run.lora.budget) for run in cells["lora", "1%"]} == {("lora", 0.01)}


def test_only_cells_that_describe_the_same_run_share_its_name() -> None:
    other = {"title": "Two", "rows": {"same": {"method": "smt"}, "other": {"seed": 0,
             "selection.budget": 0.5}}}  # fmt: skip
    comparison = make(tables={"one": make().tables["one"].model_dump(), "two": other})
    names = {cell.row: cell.runs[0].name for cell in comparison.cell_runs({})}
    assert names["smt"] == names["same"]
    assert len({names["smt"], names["lora"], names["other"]}) == 3


def test_cells_use_the_chosen_learning_rate_of_their_method_unless_they_set_one() -> None:
    rows = {"smt": {}, "lora": {"method": "lora"}, "own": {"training.learning_rate": 0.5}}
    comparison = make(
        run=WITH_VALIDATION,
        learning_rates={"smt": [1e-3, 2e-3]},
        tables={"one": {"title": "One", "rows": rows}},
    )
    tuning = comparison.tuning_runs()
    assert {method: list(rates) for method, rates in tuning.items()} == {"smt": [1e-3, 2e-3]}
    cells = list(comparison.cell_runs({"smt": 2e-3}))
    rates = {cell.row: cell.runs[0].training.learning_rate for cell in cells}
    assert rates == {"smt": 2e-3, "lora": 1e-4, "own": 0.5}
    assert tuning["smt"][2e-3].name == cells[0].runs[0].name


def test_each_cell_may_have_learning_rates_of_its_own() -> None:
    rows = {"smt": {}, "lora": {"method": "lora"}, "own": {"training.learning_rate": 0.5}}
    columns = {"1%": {"selection.budget": 0.01}, "2%": {"selection.budget": 0.02}}
    again = {"title": "Two", "rows": {"again": {"selection.budget": 0.02}}}
    comparison = make(
        run=WITH_VALIDATION,
        learning_rates={"smt": [1e-3, 2e-3]},
        learning_rates_for="cell",
        tables={"one": {"title": "One", "rows": rows, "columns": columns}, "two": again},
    )
    one, two = "smt, selection.budget 0.01", "smt, selection.budget 0.02"
    tuning = comparison.tuning_runs()
    assert {group: list(rates) for group, rates in tuning.items()} == {
        one: [1e-3, 2e-3], two: [1e-3, 2e-3],
    }  # fmt: skip
    assert [tuning[group][1e-3].selection.budget for group in (one, two)] == [0.01, 0.02]
    cells = list(comparison.cell_runs({one: 1e-3, two: 2e-3}))
    rates = {(c.row, c.column): c.runs[0].training.learning_rate for c in cells}
    assert rates == {
        ("smt", "1%"): 1e-3, ("smt", "2%"): 2e-3, ("again", ""): 2e-3,
        ("lora", "1%"): 1e-4, ("lora", "2%"): 1e-4, ("own", "1%"): 0.5, ("own", "2%"): 0.5,
    }  # fmt: skip
    assert tuning[two][2e-3].name == cells[1].runs[0].name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {}}, "tables"),
        ({"seeds": []}, "seeds"),
        ({"learning_rates": {"smt": [1e-3], "lora": [1e-3, 2e-3]}}, "the same number of values"),
        ({"tabels": {}}, "tabels: unknown key"),
        (
            {"tables": {"one": {"title": "", "rows": {"a": {}},
                                "claims": [{"better": "a", "worse": "b"}]}}},
            r"claims must name rows of the table \(a\); got b",
        ),
        (
            {"tables": {"one": {"title": "", "rows": {"a": {}}, "columns": {"1%": {}},
                                "claims": [{"better": "a", "worse": "a"}]}}},
            r"claims must name \[row, column\] with a column of the table \(1%\); got no column",
        ),
        (
            {"tables": {"one": {"title": "", "rows": {"a": {}},
                                "claims": [{"better": ["a", "boolq"], "worse": "a"}]}}},
            "claims of a table of tasks must name rows only; got boolq",
        ),
        (
            {"tables": {"one": {"title": "", "rows": {"a": {}}, "columns": "projections",
                                "claims": [{"better": "a", "worse": "a"}]}}},
            r"claims of a table of projections must name \[row, projection\]; got no projection",
        ),
    ],
)  # fmt: skip
def test_a_bad_comparison_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_a_bad_cell_is_named() -> None:
    rows = {"good": {}, "bad": {"training.learning_rate": -1}}
    with pytest.raises(UserError, match=r"tables\.one\.bad: training\.learning_rate"):
        make(tables={"one": {"title": "One", "rows": rows}})


@pytest.mark.parametrize("share", ["method", "cell"])
def test_a_method_that_is_no_name_is_refused_in_its_cell(share: str) -> None:
    rows = {"good": {}, "bad": {"method": ["smt"]}}
    tables = {"one": {"title": "One", "rows": rows}}
    with pytest.raises(UserError, match=r"tables\.one\.bad: method"):
        make(
            run=WITH_VALIDATION, learning_rates={"smt": [1e-3]}, learning_rates_for=share,
            tables=tables,
        )  # fmt: skip


def test_the_shipped_comparison_has_the_papers_tables_and_shares_its_runs() -> None:
    comparison = load_comparison(TINY, ["run.storage=elsewhere"])
    assert set(comparison.tables) == {
        "speed", "methods", "budgets", "attention_mlp", "projections", "distribution", "controls",
        "scores", "warmup_modes",
    }  # fmt: skip
    cells = list(comparison.cell_runs(dict.fromkeys(comparison.learning_rates, 1e-3)))
    runs = [run for cell in cells for run in cell.runs]
    assert {run.storage for run in runs} == {"elsewhere"}
    assert len(cells) == 44
    assert len({run.name for run in runs}) == 3 * 29
    sources = {claim.source for table in comparison.tables.values() for claim in table.claims}
    assert sources - {""} == {"Table 1", "Table 2", "Table 3", "Table 4", "Table 6", "Figure 5"}
