"""Claims about what a comparison says of its learning rates besides their table."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.reporting.pages.comparison import ComparisonContents, comparison_page
from smt_ray.reporting.text.comparison import to_markdown
from smt_ray.reporting.text.learning_rates import rates_text
from tests.reporting.comparisons import cell, run, table


@pytest.fixture
def results() -> dict[str, Any]:
    budget = {"selection.budget": 0.01}
    grid = {"smt": {"1%": cell(0.5, runs=["less"]), "5%": cell(0.5, runs=["tuned"])}}
    rows = {
        "smt": {"": cell(0.5, runs=["tuned"])},
        "random": {"": cell(0.25, runs=["random"])},
        "own": {"": cell(0.25, runs=["own"], learning_rate=0.5)},
        "full": {"": cell(0.25, runs=["full"])},
    }
    return {
        "name": "mine",
        "seeds": [3, 4],
        "learning_rates": {"smt": {"chosen": 1e-3, "validation_loss": {"0.001": 0.5}}},
        "tables": {"methods": table("tasks", rows), "budgets": table(["1%", "5%"], grid)},
        "runs": {
            "tuned": run(method="smt"),
            "random": run(method="smt", sets={"selection.score": "random"}),
            "own": run(method="smt", sets=budget, learning_rate=0.5),
            "less": run(method="smt", sets=budget),
            "full": run(method="full"),
        },
    }


def test_cells_that_were_not_tuned_themselves_are_named(results: dict[str, Any]) -> None:
    text = rates_text(results)
    assert "with seed 3 alone" in text
    assert "Not tuned themselves: methods (random); budgets (smt x 1%)." in text


def test_methods_without_learning_rates_are_named(results: dict[str, Any]) -> None:
    assert rates_text(results).endswith("full keeps the run's own learning rate, untuned.")
    results["runs"]["lora"] = run(method="lora")
    assert rates_text(results).endswith("full and lora keep the run's own learning rate, untuned.")
    tried = {"chosen": None, "validation_loss": {"0.001": None}}
    results["learning_rates"] |= {"full": tried, "lora": tried}
    assert rates_text(results).endswith("Of full and lora none could be trained.")


def test_tables_and_page_say_it_under_the_learning_rates(results: dict[str, Any]) -> None:
    text = rates_text(results)
    assert text in to_markdown(results).partition("## Learning rates")[2].partition("##")[0]
    page = comparison_page(ComparisonContents(results)).replace("&#39;", "'")
    assert text in page.partition('id="rates"')[2].partition("</section>")[0]


def test_nothing_is_said_where_nothing_was_tuned(results: dict[str, Any]) -> None:
    results["learning_rates"] = {}
    assert "Learning rates" not in to_markdown(results)
    assert 'id="rates"' not in comparison_page(ComparisonContents(results))
