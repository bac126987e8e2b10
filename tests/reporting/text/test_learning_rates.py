"""Claims about the text below the table of learning rates."""

from __future__ import annotations

from typing import Any

from smt_ray.documents.comparison import ComparisonDocument
from smt_ray.reporting.pages.comparison import ComparisonContents, comparison_page
from smt_ray.reporting.text.comparison import to_markdown
from smt_ray.reporting.text.learning_rates import rates_text
from tests.reporting.comparisons import cell, run, table

BUDGET = {"selection.budget": 0.01}
RATES: dict[str, Any] = {"smt": {"chosen": 1e-3, "validation_loss": {"0.001": 0.5}}}
RUNS = {
    "tuned": run(method="smt"),
    "random": run(method="smt", sets={"selection.score": "random"}),
    "own": run(method="smt", sets=BUDGET, learning_rate=0.5),
    "less": run(method="smt", sets=BUDGET),
    "full": run(method="full"),
}


def make_results(**changes: Any) -> ComparisonDocument:
    grid = {"smt": {"1%": cell(0.5, runs=["less"]), "5%": cell(0.5, runs=["tuned"])}}
    rows = {
        "smt": {"": cell(0.5, runs=["tuned"])},
        "random": {"": cell(0.25, runs=["random"])},
        "own": {"": cell(0.25, runs=["own"], learning_rate=0.5)},
        "full": {"": cell(0.25, runs=["full"])},
    }
    values = {
        "name": "mine",
        "seeds": [3, 4],
        "learning_rates": RATES,
        "tables": {"methods": table("tasks", rows), "budgets": table(["1%", "5%"], grid)},
        "runs": RUNS,
    }
    return ComparisonDocument.model_validate({**values, **changes})


def test_cells_whose_learning_rate_was_not_tuned_are_named() -> None:
    text = rates_text(make_results())
    assert "with seed 3 only" in text
    named = "methods (random); budgets (smt x 1%)."
    assert f"Cells whose learning rate was not tuned: {named}" in text


def test_methods_whose_learning_rate_was_not_tuned_are_named() -> None:
    end = "the configured learning rate, which was not tuned."
    assert rates_text(make_results()).endswith(f"full uses {end}")
    runs = {**RUNS, "lora": run(method="lora")}
    assert rates_text(make_results(runs=runs)).endswith(f"full and lora use {end}")
    failed = {"chosen": None, "validation_loss": {"0.001": None}}
    rates = {**RATES, "full": failed, "lora": failed}
    text = rates_text(make_results(runs=runs, learning_rates=rates))
    assert text.endswith("All learning rates of full and lora failed.")


def test_if_each_cell_was_tuned_no_cell_is_named() -> None:
    rates = {"smt": RATES["smt"], "smt, selection.budget 0.01": RATES["smt"]}
    text = rates_text(make_results(learning_rates=rates, learning_rates_for="cell"))
    assert text.startswith("The learning rate of each cell is tuned on its own run, with seed 3")
    assert "not tuned:" not in text
    assert text.endswith("full uses the configured learning rate, which was not tuned.")


def test_markdown_and_page_show_the_text_below_the_learning_rates() -> None:
    results = make_results()
    text = rates_text(results)
    assert text in to_markdown(results).partition("## Learning rates")[2].partition("##")[0]
    page = comparison_page(ComparisonContents(results)).replace("&#39;", "'")
    assert text in page.partition('id="rates"')[2].partition("</section>")[0]


def test_there_is_no_text_if_no_learning_rate_was_tuned() -> None:
    results = make_results(learning_rates={})
    assert "Learning rates" not in to_markdown(results)
    assert 'id="rates"' not in comparison_page(ComparisonContents(results))
