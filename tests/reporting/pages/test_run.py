"""Claims about the page of a run: its contents, its links, and that all text is escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from smt_ray.documents.run import BlockShape, Dataset, Environment, RunMetrics
from smt_ray.reporting.pages.run import RunContents, run_page
from smt_ray.reporting.pages.weight_grid import CountedWeight, Weight
from smt_ray.reporting.text.run import accuracy_cells, facts, format_seconds
from smt_ray.tracking.records import make_record
from tests.reporting.page_reader import NASTY, Page, leaks, prediction, read_page

SECTIONS = ["summary", "accuracy", "loss", "selection", "wrong", "stages", "versions", "config"]


def result(accuracy: float, **changes: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "interval": [accuracy - 0.02, accuracy + 0.01], **changes}


METRICS: dict[str, Any] = {
    "name": "mine",
    "method": "smt",
    "model": {"name": "some/model", "num_parameters": 1_234_567},
    "tasks": {
        "boolq": {"num_rows": 30, "majority": 0.62, "base": result(0.613), "tuned": result(0.7)},
        "gsm8k": {
            "num_rows": 1319,
            "majority": 0.02,
            "base": result(0.051),
            "base_likelihood": result(0.33),
            "tuned": result(0.042),
        },
    },
    "trainable": {
        "num_trainable": 1280,
        "num_base": 1_234_567,
        "percent_of_base": 0.8294,
        "percent_of_total": 0.8226,
    },
    "selection": {"num_blocks": 5, "block_size": 16, "margin": 1.23e-4},
    "training": {"num_steps": 3},
    "stages": {
        "warmup": {"stage": "warmup-1", "seconds": 75.2, "reused": True},
        "training": {"stage": "training-1", "seconds": 180.5},
    },
    "ran": {"batching": "packed"},
    "paths": {"run": "/kept/runs/mine", "tracked_run": "https://mlflow.test/#/runs/1"},
}
CONFIG: dict[str, Any] = {
    "seed": 7,
    "training": {
        "batch_size": 16,
        "learning_rate": 3e-4,
        "lr_schedule": "linear",
        "lr_warmup_steps": 10,
    },
}
BOOLQ = Dataset(name="boolq", source="data", num_rows=3270, digest="abcdef" * 9, context="test")
ENVIRONMENT = Environment(
    python="3.11.7",
    platform="Linux",
    num_cpus=2,
    commit="c0ffee",
    packages={"torch": "2.13.0", "peft": None},
)
RECORDS = [
    make_record(1, {"train/loss": 0.75}, time_ms=0),
    make_record(2, {"train/loss": 0.5, "validation/loss": 0.625}, time_ms=0),
    make_record(3, {"train/loss": 0.25, "validation/loss": 0.875}, time_ms=0),
]
WEIGHTS = [
    Weight("model.layers.0.self_attn.q_proj", (64, 32), 16, [(0, 0), (3, 1)], [1.0, 2.0]),
    Weight("model.layers.0.self_attn.v_proj", (32, 32), 16, [], []),
    Weight("model.layers.1.self_attn.q_proj", (64, 32), 16, [(2, 0), (2, 1), (1, 1)], [3, 4, 5]),
]


def make_metrics(**changes: Any) -> RunMetrics:
    return RunMetrics.model_validate({**METRICS, **changes})


def whole_run() -> RunContents:
    """A run with everything that a run can have."""
    return RunContents(
        name="mine",
        started_ms=1_700_000_000_000,
        ended_ms=1_700_000_360_000,
        metrics=make_metrics(),
        config=CONFIG,
        config_text="name: mine\nseed: 7\n",
        datasets=[BOOLQ],
        environment=ENVIRONMENT,
        records=RECORDS,
        weights=WEIGHTS,
        predictions={
            "base": {"boolq": [prediction(i, i == 1) for i in range(30)]},
            "tuned": {
                "boolq": [prediction(i, i % 3 > 0) for i in range(30)],
                "gsm8k": [prediction(5, False, extracted=None)],
            },
        },
    )


@pytest.fixture(scope="module")
def run() -> RunContents:
    return whole_run()


@pytest.fixture(scope="module")
def html(run: RunContents) -> str:
    return run_page(run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return read_page(html)


def test_the_page_has_every_section_and_a_link_to_each(page: Page) -> None:
    assert list(page.sections) == SECTIONS
    links = [value for value in page.values("href") if not value.startswith("#weight")]
    assert [f"#{name}" for name in SECTIONS] == links[: len(SECTIONS)]


def test_every_anchor_is_unique_and_every_internal_link_has_a_target(page: Page, html: str) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [v[1:] for v in page.values("href") + page.values("xlink:href") if v[:1] == "#"]
    targets += re.findall(r"url\(#([^)]+)\)", html)
    assert {"accuracy", "weight-0-q_proj", "weight-1-q_proj"} <= set(targets)
    assert set(targets) <= set(ids)


def test_the_page_shows_the_numbers_of_the_metrics(run: RunContents, page: Page) -> None:
    cells = accuracy_cells(run.metrics)
    assert cells is not None
    words = " ".join(page.sections["accuracy"].split())
    for row in cells.rows:
        assert " ".join(" ".join(row).split()) in words
    assert "37.1% correct after tuning, average of 2 tasks" in page.text
    assert "+3.9 points over the base model's 33.2%" in page.text
    assert "0.83% of the parameters trained" in page.text
    summary = page.sections["summary"]
    for name, text in facts(run.metrics):
        assert f"{name}{text}" in summary
    assert (
        "3 steps of 16 rows, learning rate 0.0003, linear schedule,"
        " learning-rate warm-up of 10 steps, seed 7"
    ) in summary
    assert "3,270" in summary


def test_the_page_names_the_last_and_the_lowest_loss(page: Page) -> None:
    text = page.sections["loss"]
    assert "The last training loss is 0.25 at step 3." in text
    assert "The lowest validation loss is 0.625 at step 2, the last one is 0.875." in text


def test_the_page_shows_the_time_of_every_stage(run: RunContents, page: Page) -> None:
    for stage in run.metrics.stages.values():
        assert format_seconds(stage.seconds) in page.sections["stages"]
    assert format_seconds(75.2 + 180.5) in page.sections["stages"]


def test_a_reused_stage_shows_its_time_with_a_note(page: Page) -> None:
    stages = page.sections["stages"]
    assert "1 min 15 s*" in stages
    assert "3 min 00 s*" not in stages
    assert "The stage was reused." in stages


def test_a_corrected_rule_is_in_the_table_and_in_the_chart() -> None:
    tuned = result(0.3, corrected=result(0.4))
    aqua = {"num_rows": 254, "majority": 0.25, "tuned": tuned}
    page = read_page(run_page(RunContents("mine", metrics=make_metrics(tasks={"AQuA": aqua}))))
    assert page.sections["accuracy"].count("AQuA, corrected") == 2
    assert "30.0% correct after tuning" in page.text


def test_the_map_shows_how_many_blocks_of_each_weight_are_chosen(page: Page, html: str) -> None:
    assert "layer 0, q_proj: 2 of 8 blocks (25.0%)" in page.values("title")
    assert "layer 0, v_proj: 0 of 4 blocks (0.0%)" in page.values("title")
    assert "layer 1, q_proj: 3 of 8 blocks (37.5%)" in page.values("title")
    text = page.sections["selection"]
    assert "5 of 20 blocks" in text
    assert "model.layers.1.self_attn.q_proj: 3 of 8 blocks of 16 x 16" in text
    assert "The grid has 4 rows for 64 outputs and 2 columns for 32 inputs." in text
    # The style sheet shows the last weight first, so the one with the most blocks is the last.
    weights = [value for value in page.values("id") if value.startswith("weight-")]
    assert weights == ["weight-0-q_proj", "weight-1-q_proj"]
    assert html.count('class="weight fullest"') == 1


@pytest.mark.parametrize(("shape", "number"), [("column", 32), ("element", 64 * 32)])
def test_columns_and_elements_have_a_map_without_grids(shape: BlockShape, number: int) -> None:
    weights = [
        CountedWeight("model.layers.0.self_attn.q_proj", (64, 32), shape, 8),
        CountedWeight("model.layers.1.self_attn.q_proj", (64, 32), shape, 0),
    ]
    page = read_page(run_page(RunContents("mine", weights=weights)))
    text = page.sections["selection"]
    assert f"Chosen {shape}s" in text
    assert f"8 of {2 * number:,} {shape}s are chosen." in text
    assert f"layer 0, q_proj: 8 of {number:,} {shape}s ({8 / number:.1%})" in page.values("title")
    assert f"layer 1, q_proj: 0 of {number:,} {shape}s (0.0%)" in page.values("title")
    assert "block" not in text
    assert "links to" not in text
    assert "#weight-0-q_proj" not in page.values("href")


def test_wrong_answers_show_the_question_the_expected_answer_and_the_output(page: Page) -> None:
    text = page.sections["wrong"]
    assert "11 of the tuned model's 31 answers are wrong, 1 of them because no answer" in text
    assert "The page shows all of them." in text
    assert text.count("Question ") == 11
    assert "How much is 3 + 1?" in text
    assert "expected4" in text
    assert "tuned, outputthe correct answer is blue" in text
    assert "tuned, answernone" in text
    assert "base, answer" in text


def test_at_most_twenty_wrong_answers_are_shown() -> None:
    tuned = {"boolq": [prediction(i, False) for i in range(100)]}
    page = read_page(run_page(RunContents("mine", predictions={"tuned": tuned})))
    text = page.sections["wrong"]
    assert text.count("Question ") == 20
    assert "The page shows 20 of them, spread evenly over tasks and rows." in text
    assert "base, answer" not in text


def test_the_page_shows_the_versions_of_the_environment(page: Page) -> None:
    text = page.sections["versions"]
    for part in ("torch 2.13.0", "peft not installed", "python 3.11.7", "commit c0ffee"):
        assert part.replace(" ", "") in text.replace(" ", "")


def hostile(run: RunContents, text: str) -> RunContents:
    """A run in which everything that a user or a model can write is one text."""
    answers = [
        prediction(i, False, prompt=f"{i} {text}", output=text, extracted=text, expected=text)
        for i in range(3)
    ]
    metrics = make_metrics(
        method=text,
        model={"name": text},
        paths={"run": text},
        ran={"kernel": text},
        tasks={text: {"num_rows": 3, "majority": 0.1, "tuned": result(0.5)}},
        stages={text: {"stage": text, "seconds": 1.0}},
    )
    dataset = Dataset(name=text, source=text, num_rows=1, digest=text, context="test")
    return replace(
        run,
        name=text,
        metrics=metrics,
        config_text=text,
        weights=[replace(weight, name=f"{weight.name}{text}") for weight in run.weights],
        datasets=[dataset],
        environment=Environment(python=text, platform=text, packages={text: text}),
        predictions={who: {text: answers} for who in ("base", "tuned")},
        missing=[text],
    )


def test_text_of_a_model_or_a_user_is_escaped_everywhere(run: RunContents, page: Page) -> None:
    html = run_page(hostile(run, NASTY))
    found = read_page(html)
    assert "script" not in found.tags
    assert set(found.tags) <= set(page.tags) | {"details", "summary", "em"}
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") > 20
    assert not leaks(html)


def test_the_page_fetches_nothing_and_runs_nothing(page: Page, html: str) -> None:
    assert leaks(html) == []
    assert "script" not in page.tags
    links = {value for value in page.values("href") if not value.startswith("#")}
    assert links == {"https://mlflow.test/#/runs/1"}
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")


@pytest.mark.parametrize(
    ("empty", "sections"),
    [
        ({"metrics": RunMetrics()}, {"accuracy", "stages"}),
        ({"records": ()}, {"loss"}),
        ({"weights": ()}, {"selection"}),
        ({"predictions": {}}, {"wrong"}),
        ({"environment": None}, {"versions"}),
        ({"config_text": ""}, {"config"}),
    ],
    ids=lambda value: "" if isinstance(value, set) else next(iter(value)),
)
def test_a_section_without_contents_is_left_out(
    run: RunContents, empty: dict[str, Any], sections: set[str]
) -> None:
    page = read_page(run_page(replace(run, **empty)))
    assert list(page.sections) == [name for name in SECTIONS if name not in sections]
    assert not {f"#{name}" for name in sections} & set(page.values("href"))
    assert "None" not in page.text
    assert "nan" not in page.text.split()


def test_a_failed_run_with_a_name_only_has_a_page() -> None:
    page = read_page(run_page(RunContents("mine", status="FAILED")))
    assert list(page.sections) == ["summary"]
    assert "This run is not finished: failed" in page.text


def test_correct_answers_alone_make_no_section_of_wrong_ones() -> None:
    right = {"tuned": {"boolq": [prediction(i, True) for i in range(9)]}}
    assert "wrong" not in read_page(run_page(RunContents("mine", predictions=right))).sections


def test_the_page_names_missing_artifacts() -> None:
    place = "/kept/stages/training-1/metrics.jsonl"
    page = read_page(run_page(RunContents("mine", missing=[place])))
    assert f"Missing artifact, not shown: {place}" in page.text


def test_equal_contents_make_equal_pages(run: RunContents, html: str) -> None:
    assert run_page(run) == html


def test_the_page_of_a_large_run_is_smaller_than_a_megabyte(run: RunContents) -> None:
    """32 layers of seven projections at 4.9%, 30,000 steps, a task of 10,000 long answers."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    blocks = [(row, column) for row in range(16) for column in range(16) if (row + column) % 5 == 0]
    large = replace(
        run,
        weights=[
            Weight(f"model.layers.{layer}.{name}", (4096, 4096), 256, blocks, [1.0] * len(blocks))
            for layer in range(32)
            for name in names
        ],
        records=[
            make_record(i, {"train/loss": 1 + (i * 7919 % 1000) / 1000}, time_ms=0)
            for i in range(30_000)
        ],
        predictions={
            "tuned": {"boolq": [prediction(i, False, output="a" * 9999) for i in range(10_000)]}
        },
    )
    assert len(run_page(large)) < 1_000_000
