"""Claims about a search's page: every trial, the winner, and that nothing gets out of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smt_ray.reporting.pages.run import RunContents
from smt_ray.reporting.pages.search import SearchContents, search_page
from tests.reporting.page_reader import NASTY, leaks, prediction, read_page
from tests.reporting.searches import three_trials


@pytest.fixture(scope="module")
def contents() -> SearchContents:
    winner = RunContents(
        name="s-1",
        metrics={"model": {"name": "some/model"}},
        predictions={"tuned": {"boolq": [prediction(i, i > 2) for i in range(9)]}},
        records=[{"step": 1, "metrics": {"train/loss": 0.75}}],
    )
    results: dict[str, Any] = {
        "name": "mine",
        "started_ms": 1_700_000_000_000,
        "ended_ms": 1_700_000_360_000,
        "trials": three_trials(),
        "log_keys": ["training.learning_rate"],
        "winner": {},
        "best_yaml": "# smt-ray run best.yaml\nseed: 3\n",
    }
    pages = {"s-1": "../../runs/s-1/report.html"}
    return SearchContents(results, winner, "space: {}\n", pages)


def test_every_trial_stands_there_with_its_point_and_what_became_of_it(
    contents: SearchContents,
) -> None:
    text = read_page(search_page(contents)).sections["trials"]
    assert "won" in text
    assert "stopped early" in text
    assert "out of | memory" in text
    assert all(word in text for word in ("s-1", "s-2", "0.5123", "0.9000", "0.001234"))


def test_the_winner_leads_to_its_own_page_and_its_file_can_be_copied(
    contents: SearchContents,
) -> None:
    page = read_page(search_page(contents))
    assert "../../runs/s-1/report.html" in page.values("href")
    assert "smt-ray run best.yaml seed: 3" in page.sections["best"]
    assert set(page.sections) == {"trials", "best", "loss", "wrong", "config"}


def test_a_picture_for_each_key_and_one_of_all_curves(contents: SearchContents) -> None:
    page = read_page(search_page(contents))
    labels = page.values("aria-label")
    assert "Validation loss of every trial over the optimizer steps" in labels
    for key in ("selection.block_size", "training.learning_rate"):
        assert f"Validation loss of every trial over {key}" in labels
    ids = page.values("id")
    assert len(set(ids)) == len(ids)


def test_nothing_that_was_written_gets_out_of_the_page(contents: SearchContents) -> None:
    trials = three_trials()
    trials[2]["error"] = trials[2]["point"]["selection.block_size"] = NASTY
    nasty = {**contents.results, "name": NASTY, "trials": trials, "best_yaml": NASTY}
    html = search_page(replace(contents, results=nasty, config_text=NASTY))
    assert not leaks(html)
    assert read_page(html).text.count("alert(1)") >= 4
