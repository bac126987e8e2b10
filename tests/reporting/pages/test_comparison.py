"""Claims about the page of a comparison: its contents, its links, and that all text is escaped."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from smt_ray.documents.comparison import ComparisonDocument
from smt_ray.documents.run import Dataset, Environment, RunMetrics, StageEntry
from smt_ray.reporting.pages.comparison import ComparisonContents, comparison_page, table_anchors
from smt_ray.reporting.pages.run import RunContents
from smt_ray.reporting.pages.weight_grid import CountedWeight, Weight
from smt_ray.reporting.text.comparison import difference_parts, table_cells
from smt_ray.reporting.text.run import format_seconds
from smt_ray.tracking.records import make_record
from tests.reporting.comparisons import (
    FAILED,
    FASTER,
    HELD,
    claim,
    comparison_results,
    run,
    table,
)
from tests.reporting.page_reader import NASTY, Page, leaks, prediction, read_page

SECTIONS = [
    "claims", "summary", "rates", "table-methods", "table-speed", "table-shares", "table-budgets",
    "loss", "selection", "runs", "stages", "wrong", "versions", "config",
]  # fmt: skip
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
CONFIG: dict[str, Any] = {
    "seed": 0,
    "training": {
        "batch_size": 16,
        "learning_rate": 3e-4,
        "lr_schedule": "linear",
        "lr_warmup_steps": 10,
    },
}
RECORDS = [
    make_record(1, {"train/loss": 0.75}, time_ms=0),
    make_record(2, {"train/loss": 0.5, "validation/loss": 0.625}, time_ms=0),
]


def weights(*blocks: tuple[int, int]) -> list[Weight]:
    return [
        Weight(Q, (64, 32), 16, list(blocks), [1.0] * len(blocks)),
        Weight(V, (32, 32), 16, [(0, 0)], [2.0]),
    ]


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def contents() -> ComparisonContents:
    """A comparison with everything that a comparison can have."""
    reference = RunContents(
        name="good",
        metrics=RunMetrics.model_validate(
            {
                "model": {"name": "some/model"},
                "training": {"num_steps": 60},
                "paths": {"run": "/kept/runs/good"},
            }
        ),
        config=CONFIG,
        datasets=[
            Dataset(name="boolq", source="data", num_rows=3270, digest="abcdef" * 9, context="test")
        ],
        environment=Environment(
            python="3.11.7",
            platform="Linux",
            num_cpus=2,
            commit="c0ffee",
            packages={"torch": "2.13.0"},
        ),
        weights=weights((0, 0)),
        predictions={"tuned": {"boolq": [prediction(i, i > 2) for i in range(9)]}},
    )
    warmup = StageEntry(stage="warmup-1", seconds=75.2)
    return ComparisonContents(
        results=comparison_results(),
        config_text="name: mine\n",
        reference=reference,
        stages={
            "good": {"warmup": warmup, "training": StageEntry(stage="training-1", seconds=10.0)},
            "other": {"warmup": warmup, "training": StageEntry(stage="training-2", seconds=20.0)},
        },
        records={"smt": RECORDS, "lora": RECORDS},
        selections={"methods": {"smt": weights((0, 0)), "random": weights((1, 1), (3, 1))}},
        pages={"good": "../../runs/good/report.html"},
    )


@pytest.fixture(scope="module")
def html(contents: ComparisonContents) -> str:
    return comparison_page(contents)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return read_page(html)


def page_of(results: ComparisonDocument, **contents: Any) -> Page:
    return read_page(comparison_page(ComparisonContents(results, **contents)))


def test_the_page_has_every_section_and_a_link_to_each(page: Page) -> None:
    assert list(page.sections) == SECTIONS
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    start = links.index("#claims")
    assert links[start : start + len(SECTIONS)] == [f"#{name}" for name in SECTIONS]


def test_every_anchor_is_unique_and_every_internal_link_has_a_target(page: Page, html: str) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [v[1:] for v in page.values("href") + page.values("xlink:href") if v[:1] == "#"]
    targets += re.findall(r"url\(#([^)]+)\)", html)
    assert set(targets) <= set(ids)


def test_tables_with_similar_names_have_different_anchors() -> None:
    anchors = table_anchors(["K, Q", "K/Q", "K Q", "ä", "ö"])
    assert len(set(anchors.values())) == 5
    assert all(re.fullmatch(r"[\w-]+", anchor, re.ASCII) for anchor in anchors.values())


def test_every_table_has_the_same_cells_as_in_the_markdown(
    contents: ComparisonContents, page: Page
) -> None:
    for name, shown in contents.results.tables.items():
        text = words(page.sections[f"table-{name}"])
        assert shown.title in text
        cells = table_cells(shown)
        for line in (cells.head, *cells.rows):
            assert words(" ".join(line)) in text, name
    assert page.tags["figure"] >= len(contents.results.tables)


def test_every_claim_is_answered_at_the_top_and_beside_its_table(page: Page) -> None:
    for section in ("claims", "table-methods"):
        text = page.sections[section]
        for part in ("smt above lora", "held", " ".join(difference_parts(HELD)), "Table 2"):
            assert part in text
    answer = f"not resolved {' '.join(difference_parts(FASTER))} Table 1"
    assert f"lora faster than smt {answer}" in words(page.sections["claims"])
    assert "1 of 2 claims held" in page.text
    assert "#table-methods" in page.values("href")


def test_a_claim_without_a_difference_shows_the_reason() -> None:
    claims = [claim("smt", "bad", reason="a run failed"), FASTER]
    tables = {"methods": table("tasks", {"bad": {"": FAILED}}, claims)}
    page = page_of(comparison_results(tables=tables))
    assert "smt above bad not resolved a run failed" in words(page.sections["claims"])
    assert "0 of 2 claims held" in page.text


def test_accuracies_by_task_have_their_intervals(page: Page) -> None:
    text = page.sections["table-methods"]
    assert "50.0 (35.0 to 65.0)" in text
    assert "Accuracy by task with 95% intervals" in text


def test_every_learning_rate_is_shown_and_the_chosen_one_is_marked(page: Page) -> None:
    text = words(page.sections["rates"])
    assert "smt 0.001 0.5000 chosen 1 failed" in text
    assert "smt: the chosen learning rate is the lowest that was tried" in text


def test_the_summary_describes_the_reference_run(page: Page) -> None:
    text = page.sections["summary"]
    for part in ("some/model", "60 steps of 16 rows", "3,270", "seeds0, 1", "reference run, good"):
        assert part in text, part
    assert "/kept/runs/good" not in text


def test_every_run_is_listed_with_its_settings_and_the_reason_of_a_failure(page: Page) -> None:
    text = words(page.sections["runs"])
    assert "good 50.0% smt 0.001 0 1.0 s finished selection.budget 0.05" in text
    assert "other 25.0% lora 0.001 0 1.0 s finished, reused" in text
    assert "bad full 0.001 0 - failed: out of memory" in text
    assert "1 of the runs failed" in page.text
    assert "3 runs, 1 failed, 1 reused" in page.text


def test_a_run_links_to_its_page_if_there_is_one(page: Page) -> None:
    links = {value for value in page.values("href") if not value.startswith("#")}
    assert links == {"../../runs/good/report.html"}


def test_a_stage_that_several_runs_share_counts_once(page: Page) -> None:
    text = page.sections["stages"]
    for seconds in (75.2, 30.0, 105.2):
        assert format_seconds(seconds) in text
    assert f"{format_seconds(105.2)} for all runs together" in page.text


def test_selections_are_side_by_side_and_the_reference_has_its_grids(page: Page) -> None:
    text = words(page.sections["table-methods"])
    assert "smt: 2 of 12 blocks" in text
    assert "random: 3 of 12 blocks" in text
    titles = page.values("title")
    assert "layer 0, q_proj: 2 of 8 blocks (25.0%)" in titles
    assert "model.layers.0.self_attn.q_proj: 1 of 8 blocks" in page.sections["selection"]
    assert page.values("id").count("weight-0-q_proj") == 1


def test_blocks_and_columns_are_compared_by_their_shares(contents: ComparisonContents) -> None:
    columns = [CountedWeight("model.layers.0.self_attn.q_proj", (64, 32), "column", 16)]
    selections = {"methods": {"smt": weights((0, 0)), "PaCA": columns}}
    page = page_of(contents.results, selections=selections)
    text = words(page.sections["table-methods"])
    assert "smt: 2 of 12 blocks" in text
    assert "PaCA: 16 of 32 columns" in text
    assert "50.0% of a weight's blocks or columns are chosen" in text
    assert "layer 0, q_proj: 16 of 32 columns (50.0%)" in page.values("title")


def test_a_comparison_without_selections_has_no_map(contents: ComparisonContents) -> None:
    assert contents.reference is not None
    reference = replace(contents.reference, weights=[])
    page = page_of(contents.results, reference=reference)
    assert "selection" not in page.sections
    assert "heat" not in page.values("class")
    assert "What each cell chose" not in page.text


def test_a_section_without_contents_is_left_out() -> None:
    results = comparison_results(
        seeds=[0],
        learning_rates={},
        tables={"methods": table("tasks", {"bad": {"": FAILED}})},
        runs={"bad": run(error="out of memory")},
    )
    page = page_of(results)
    assert list(page.sections) == ["summary", "table-methods", "runs"]
    assert "None" not in page.text
    assert "out of memory" in page.sections["runs"]


def test_text_of_a_model_or_a_user_is_escaped_everywhere(
    contents: ComparisonContents, page: Page
) -> None:
    text = contents.results.model_dump_json()
    for word in ("smt", "bad", "boolq", "mine", "out of memory", "Title", "Table 2", "good"):
        text = text.replace(f'"{word}"', json.dumps(NASTY + word))
    assert contents.reference is not None
    answers = [prediction(i, False, prompt=f"{i} {NASTY}", output=NASTY) for i in range(3)]
    nasty = replace(
        contents,
        results=ComparisonDocument.model_validate_json(text),
        config_text=NASTY,
        missing=[NASTY],
        records={NASTY: RECORDS, "lora": RECORDS},
        selections={"methods": {NASTY: weights((0, 0))}},
        reference=replace(contents.reference, name=NASTY, predictions={"tuned": {NASTY: answers}}),
    )
    html = comparison_page(nasty)
    found = read_page(html)
    assert "script" not in found.tags
    assert set(found.tags) <= set(page.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") > 20
    assert not leaks(html)


def test_the_page_fetches_nothing_and_runs_nothing(page: Page, html: str) -> None:
    assert leaks(html) == []
    assert "script" not in page.tags
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")


def test_equal_contents_make_equal_pages(contents: ComparisonContents, html: str) -> None:
    assert comparison_page(contents) == html


def test_the_page_names_missing_artifacts() -> None:
    results = comparison_results(tables={}, learning_rates={})
    page = page_of(results, missing=["/kept/metrics.jsonl"])
    assert "Missing artifact, not shown: /kept/metrics.jsonl" in page.text
