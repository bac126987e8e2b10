"""Claims about a comparison's page: what it shows, that it is whole, that nothing gets out."""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import replace

import pytest

from smt_ray.reporting.pages.comparison import ComparisonContents, comparison_page, table_anchors
from smt_ray.reporting.pages.run import RunContents
from smt_ray.reporting.pages.weight_grid import Weight
from smt_ray.reporting.text.comparison import difference_text, table_lines
from smt_ray.reporting.text.run import format_seconds
from tests.reporting.comparisons import comparison_results
from tests.reporting.page_reader import NASTY, leaks, prediction, read_page

SECTIONS = [
    "claims", "ran", "rates", "table-methods", "table-speed", "table-shares", "table-budgets",
    "loss", "selection", "runs", "stages", "wrong", "versions", "config",
]  # fmt: skip
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def weights(*blocks: tuple[int, int]) -> list[Weight]:
    return [
        Weight(Q, (64, 32), 16, list(blocks), [1.0] * len(blocks)),
        Weight(V, (32, 32), 16, [(0, 0)], [2.0]),
    ]


@pytest.fixture(scope="module")
def contents() -> ComparisonContents:
    """A comparison with everything that one can have."""
    reference = RunContents(
        name="good",
        metrics={"model": {"name": "some/model"}, "training": {"num_steps": 60}},
        config={
            "seed": 0,
            "training": {
                "batch_size": 16, "learning_rate": 3e-4, "lr_schedule": "linear",
                "lr_warmup_steps": 10,
            },
        },
        datasets=[{"name": "boolq", "source": "data", "num_rows": 3270, "digest": "abcdef" * 9}],
        environment={
            "python": "3.11.7", "platform": "Linux", "num_cpus": 2, "commit": "c0ffee",
            "packages": {"torch": "2.13.0"},
        },
        weights=weights((0, 0)),
        predictions={"tuned": {"boolq": [prediction(i, i > 2) for i in range(9)]}},
    )  # fmt: skip
    records = [
        {"step": 1, "metrics": {"train/loss": 0.75}},
        {"step": 2, "metrics": {"train/loss": 0.5, "validation/loss": 0.625}},
    ]
    shared = {"warmup": {"stage": "warmup-1", "seconds": 75.2}}
    return ComparisonContents(
        results=comparison_results(),
        config_text="name: mine\n",
        reference=reference,
        stages={
            "good": {**shared, "training": {"stage": "training-1", "seconds": 10.0}},
            "other": {**shared, "training": {"stage": "training-2", "seconds": 20.0}},
        },
        records={"smt": records, "lora": records},
        selections={"methods": {"smt": weights((0, 0)), "random": weights((1, 1), (3, 1))}},
        pages={"good": "../../runs/good/report.html"},
    )


@pytest.fixture(scope="module")
def html(contents: ComparisonContents) -> str:
    """Its page."""
    return comparison_page(contents)


def test_every_section_is_there_and_the_contents_lead_to_them(html: str) -> None:
    page = read_page(html)
    assert list(page.sections) == SECTIONS
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    start = links.index("#claims")
    assert links[start : start + len(SECTIONS)] == [f"#{name}" for name in SECTIONS]


def test_every_anchor_is_unique_and_every_link_within_the_page_arrives(html: str) -> None:
    page = read_page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [v[1:] for v in page.values("href") + page.values("xlink:href") if v[:1] == "#"]
    targets += re.findall(r"url\(#([^)]+)\)", html)
    assert set(targets) <= set(ids)


def test_names_that_come_to_one_anchor_are_told_apart() -> None:
    anchors = table_anchors(["K, Q", "K/Q", "K Q", "ä", "ö"])
    assert len(set(anchors.values())) == 5
    assert all(re.fullmatch(r"[\w-]+", anchor, re.ASCII) for anchor in anchors.values())


def test_every_table_stands_in_the_page_as_in_the_markdown(
    contents: ComparisonContents, html: str
) -> None:
    page = read_page(html)
    for name, table in contents.results["tables"].items():
        text = " ".join(page.sections[f"table-{name}"].split())
        assert table["title"] in text
        for line in table_lines(table):
            assert " ".join(" ".join(line).split()) in text, name
    assert page.tags["figure"] >= len(contents.results["tables"])


def test_every_claim_is_answered_in_words_above_its_table_and_beside_it(
    contents: ComparisonContents, html: str
) -> None:
    page = read_page(html)
    (claim,) = contents.results["tables"]["methods"]["claims"]
    for section in ("claims", "table-methods"):
        text = page.sections[section]
        for part in ("smt above lora", "held", difference_text(claim), "Table 2"):
            assert part in text
    (faster,) = contents.results["tables"]["speed"]["claims"]
    text = " ".join(page.sections["claims"].split())
    assert f"lora faster than smt not resolved {difference_text(faster)} Table 1" in text
    assert "1 of 2 claims held" in page.text
    assert "#table-methods" in page.values("href")


def test_a_claim_that_could_not_be_tried_says_why(contents: ComparisonContents) -> None:
    results = copy.deepcopy(dict(contents.results))
    results["tables"]["methods"]["claims"] = [
        {"better": "smt", "worse": "bad", "source": "", "verdict": "not resolved",
         "reason": "a run failed"}
    ]  # fmt: skip
    page = read_page(comparison_page(replace(contents, results=results)))
    assert "smt above bad not resolved a run failed" in " ".join(page.sections["claims"].split())
    assert "0 of 2 claims held" in page.text


def test_accuracies_by_task_have_their_intervals(html: str) -> None:
    text = read_page(html).sections["table-methods"]
    assert "50.0 (35.0 to 65.0)" in text
    assert "Accuracy by task with 95% intervals" in text


def test_every_learning_rate_is_there_and_the_chosen_one_is_said(html: str) -> None:
    text = " ".join(read_page(html).sections["rates"].split())
    assert "smt 0.001 0.5000 chosen 1 failed" in text
    assert "smt: the best is the lowest that was tried" in text


def test_what_ran_is_the_references(html: str) -> None:
    text = read_page(html).sections["ran"]
    for part in ("some/model", "60 steps of 16 rows", "3,270", "seeds0, 1", "the reference, good"):
        assert part in text, part


def test_every_run_is_listed_with_what_it_sets_and_failed_ones_say_why(
    contents: ComparisonContents, html: str
) -> None:
    page = read_page(html)
    text = " ".join(page.sections["runs"].split())
    assert "good 50.0% smt 0.001 0 1.0 s finished selection.budget 0.05" in text
    assert "other 25.0% lora 0.001 0 1.0 s finished before" in text
    assert "bad full 0.001 0 - failed: out of memory" in text
    assert "1 of the runs failed" in page.text
    assert "3 runs, 1 failed, 1 found finished" in page.text


def test_runs_lead_to_their_pages_where_there_are_any(html: str) -> None:
    links = {value for value in read_page(html).values("href") if not value.startswith("#")}
    assert links == {"../../runs/good/report.html"}


def test_a_stage_that_runs_share_counts_once(html: str) -> None:
    text = read_page(html).sections["stages"]
    for seconds in (75.2, 30.0, 105.2):
        assert format_seconds(seconds) in text
    assert f"{format_seconds(105.2)} for all runs together" in read_page(html).text


def test_selections_are_shown_side_by_side_and_the_references_with_its_grids(html: str) -> None:
    page = read_page(html)
    text = " ".join(page.sections["table-methods"].split())
    assert "smt: 2 of 12 blocks" in text
    assert "random: 3 of 12 blocks" in text
    titles = page.values("title")
    assert "layer 0, q_proj: 2 of 8 blocks (25.0%)" in titles
    assert "model.layers.0.self_attn.q_proj: 1 of 8 blocks" in page.sections["selection"]
    assert page.values("id").count("weight-0-q_proj") == 1


def test_a_comparison_without_selections_has_no_map(contents: ComparisonContents) -> None:
    assert contents.reference is not None
    reference = replace(contents.reference, weights=[])
    html = comparison_page(replace(contents, reference=reference, selections={}))
    page = read_page(html)
    assert "selection" not in page.sections
    assert "heat" not in page.values("class")
    assert "Which blocks" not in page.text


def test_what_a_comparison_does_not_have_is_left_out(contents: ComparisonContents) -> None:
    results = {
        "name": "mine", "seeds": [0], "learning_rates": {},
        "tables": {"methods": {"title": "T", "columns": "tasks", "claims": [],
                               "rows": {"bad": {"": contents.results["tables"]["methods"]["rows"]
                                                ["bad"][""]}}}},
        "runs": {"bad": {"error": "out of memory"}},
    }  # fmt: skip
    page = read_page(comparison_page(ComparisonContents(results)))
    assert list(page.sections) == ["ran", "table-methods", "runs"]
    assert "None" not in page.text
    assert "out of memory" in page.sections["runs"]


def test_what_anybody_wrote_is_text_whatever_it_is(contents: ComparisonContents, html: str) -> None:
    text = repr(contents.results)
    for word in ("smt", "bad", "boolq", "mine", "out of memory", "Title", "Table 2", "good"):
        text = text.replace(f"'{word}'", repr(NASTY + word))
    assert contents.reference is not None
    answers = [prediction(i, False, prompt=f"{i} {NASTY}", output=NASTY) for i in range(3)]
    nasty = replace(
        contents, results=ast.literal_eval(text), config_text=NASTY, missing=[NASTY],
        records={NASTY: contents.records["smt"], "lora": contents.records["lora"]},
        selections={"methods": {NASTY: weights((0, 0))}},
        reference=replace(contents.reference, name=NASTY, predictions={"tuned": {NASTY: answers}}),
    )  # fmt: skip
    made = comparison_page(nasty)
    page = read_page(made)
    assert "script" not in page.tags
    assert set(page.tags) <= set(read_page(html).tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert not leaks(made)


def test_the_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = read_page(html)
    assert leaks(html) == []
    assert "script" not in page.tags
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")


def test_one_comparison_makes_one_page(contents: ComparisonContents, html: str) -> None:
    assert comparison_page(contents) == html


def test_what_is_gone_is_named(contents: ComparisonContents) -> None:
    page = read_page(comparison_page(replace(contents, missing=["/kept/metrics.jsonl"])))
    assert "Gone, and so not shown: /kept/metrics.jsonl" in page.text
