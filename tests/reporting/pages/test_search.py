"""Claims about the page of a search: its trials, its winner, and that all text is escaped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smt_ray.documents.run import RunMetrics
from smt_ray.reporting.pages.run import RunContents
from smt_ray.reporting.pages.search import SearchContents, search_page
from tests.reporting.page_reader import NASTY, Page, leaks, prediction, read_page
from tests.reporting.searches import POINT, search_results, three_trials


@pytest.fixture(scope="module")
def contents() -> SearchContents:
    winner = RunContents(
        name="s-1",
        metrics=RunMetrics.model_validate({"model": {"name": "some/model"}}),
        predictions={"tuned": {"boolq": [prediction(i, i > 2) for i in range(9)]}},
        records=[{"step": 1, "metrics": {"train/loss": 0.75}}],
    )
    pages = {"s-1": "../../runs/s-1/report.html"}
    return SearchContents(search_results(), winner, "space: {}\n", pages)


@pytest.fixture(scope="module")
def page(contents: SearchContents) -> Page:
    return read_page(search_page(contents))


def test_every_trial_is_shown_with_its_point_and_its_status(page: Page) -> None:
    text = page.sections["trials"]
    assert "winner" in text
    assert "stopped early" in text
    assert "out of | memory" in text
    assert all(word in text for word in ("s-1", "s-2", "0.5123", "0.9000", "0.001234"))


def test_the_winner_links_to_its_page_and_its_configuration_can_be_copied(page: Page) -> None:
    assert "../../runs/s-1/report.html" in page.values("href")
    assert "smt-ray run best.yaml seed: 3" in page.sections["best"]
    assert set(page.sections) == {"trials", "best", "loss", "wrong", "config"}


def test_the_page_has_a_picture_of_all_curves_and_one_for_each_key(page: Page) -> None:
    labels = page.values("aria-label")
    assert "Validation loss of every trial over the optimizer steps" in labels
    for key in POINT:
        assert f"Validation loss of every trial over {key}" in labels
    ids = page.values("id")
    assert len(set(ids)) == len(ids)


def test_text_of_a_user_is_escaped_everywhere(contents: SearchContents) -> None:
    finished, stopped, _ = three_trials()
    *_, failed = three_trials(error=NASTY, point={**POINT, "selection.block_size": NASTY})
    results = search_results(name=NASTY, trials=[finished, stopped, failed], best_yaml=NASTY)
    html = search_page(replace(contents, results=results, config_text=NASTY))
    assert not leaks(html)
    assert read_page(html).text.count("alert(1)") >= 4
