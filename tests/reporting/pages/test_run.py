"""Claims about a run's page: what it shows, that it is whole, and that nothing gets out of it."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from smt_ray.reporting.pages.run import RunContents, run_page
from smt_ray.reporting.pages.weight_grid import Weight
from smt_ray.reporting.text.run import accuracy_cells, facts, format_seconds
from tests.reporting.page_reader import NASTY, leaks, prediction, read_page

SECTIONS = ["ran", "accuracy", "loss", "selection", "wrong", "stages", "versions", "config"]


def result(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "interval": [accuracy - 0.02, accuracy + 0.01], "num_unread": 0}


@pytest.fixture(scope="module")
def run() -> RunContents:
    """A run with everything that a run can have."""
    stages = {
        "warmup": {"stage": "warmup-1", "seconds": 75.2, "reused": True},
        "training": {"stage": "training-1", "seconds": 180.5, "reused": False},
    }
    metrics = {
        "name": "mine",
        "method": "smt",
        "model": {"name": "some/model", "num_parameters": 1_234_567},
        "tasks": {
            "boolq": {
                "num_rows": 30, "majority": 0.62, "base": result(0.613), "tuned": result(0.7),
            },
            "gsm8k": {
                "num_rows": 1319, "majority": 0.02, "base": result(0.051),
                "base_likelihood": result(0.33), "tuned": result(0.042),
            },
        },
        "trainable": {
            "num_trainable": 1280, "num_base": 1_234_567,
            "percent_of_base": 0.8294, "percent_of_total": 0.8226,
        },
        "selection": {"num_blocks": 5, "block_size": 16, "margin": 1.23e-4},
        "training": {"num_steps": 3},
        "stages": stages,
        "ran": {"batching": "packed"},
        "paths": {"run": "/kept/runs/mine", "mlflow run": "https://mlflow.test/#/runs/1"},
    }  # fmt: skip
    return RunContents(
        name="mine",
        started_ms=1_700_000_000_000,
        ended_ms=1_700_000_360_000,
        metrics=metrics,
        config={
            "seed": 7,
            "training": {
                "batch_size": 16, "learning_rate": 3e-4, "lr_schedule": "linear",
                "lr_warmup_steps": 10,
            },
        },
        config_text="name: mine\nseed: 7\n",
        datasets=[{"name": "boolq", "source": "data", "num_rows": 3270, "digest": "abcdef" * 9}],
        environment={
            "python": "3.11.7", "platform": "Linux", "num_cpus": 2, "commit": "c0ffee",
            "packages": {"torch": "2.13.0", "peft": None},
        },
        records=[
            {"step": 1, "metrics": {"train/loss": 0.75}},
            {"step": 2, "metrics": {"train/loss": 0.5, "validation/loss": 0.625}},
            {"step": 3, "metrics": {"train/loss": 0.25, "validation/loss": 0.875}},
        ],
        weights=[
            Weight("model.layers.0.self_attn.q_proj", (64, 32), 16, [(0, 0), (3, 1)], [1.0, 2.0]),
            Weight("model.layers.0.self_attn.v_proj", (32, 32), 16, [], []),
            Weight("model.layers.1.self_attn.q_proj", (64, 32), 16, [(2, 0), (2, 1), (1, 1)],
                   [3.0, 4.0, 5.0]),
        ],
        predictions={
            "base": {"boolq": [prediction(i, i == 1) for i in range(30)]},
            "tuned": {
                "boolq": [prediction(i, i % 3 > 0) for i in range(30)],
                "gsm8k": [prediction(5, False, extracted=None)],
            },
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def html(run: RunContents) -> str:
    """Its page."""
    return run_page(run)


def test_every_section_is_there_and_the_contents_lead_to_them(html: str) -> None:
    page = read_page(html)
    assert list(page.sections) == SECTIONS
    links = [value for value in page.values("href") if not value.startswith("#weight")]
    assert [f"#{name}" for name in SECTIONS] == links[: len(SECTIONS)]


def test_every_anchor_is_unique_and_every_link_within_the_page_arrives(html: str) -> None:
    page = read_page(html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [v[1:] for v in page.values("href") + page.values("xlink:href") if v[:1] == "#"]
    targets += re.findall(r"url\(#([^)]+)\)", html)
    assert {"accuracy", "weight-0-q_proj", "weight-1-q_proj"} <= set(targets)
    assert set(targets) <= set(ids)


def test_the_numbers_are_those_of_the_metrics(run: RunContents, html: str) -> None:
    page = read_page(html)
    cells = accuracy_cells(run.metrics)
    assert cells is not None
    words = " ".join(page.sections["accuracy"].split())
    for row in cells.rows:
        assert " ".join(" ".join(row).split()) in words
    assert "37.1% correct after tuning, average of 2 tasks" in page.text
    assert "+3.9 points over the base's 33.2%" in page.text
    assert "0.83% of the parameters trained" in page.text
    for what, text in facts(run.metrics):
        assert f"{what}{text}" in page.sections["ran"]
    assert "3 steps of 16 rows, learning rate 0.0003, linear, ramp of 10 steps, seed 7" in page.text
    assert "3,270" in page.sections["ran"]
    loss = page.sections["loss"]
    assert "Last training loss 0.25 at step 3" in loss
    assert "lowest validation loss 0.625 at step 2, last 0.875" in loss
    for stage in run.metrics["stages"].values():
        assert format_seconds(stage["seconds"]) in page.sections["stages"]
    assert format_seconds(75.2 + 180.5) in page.sections["stages"]


def test_a_reused_stage_shows_what_it_took_and_says_so(html: str) -> None:
    stages = read_page(html).sections["stages"]
    assert "1 min 15 s*" in stages
    assert "3 min 00 s*" not in stages
    assert "found finished and reused" in stages


def test_what_a_corrected_rule_reads_is_in_the_table_and_in_the_chart(run: RunContents) -> None:
    aqua = {"num_rows": 254, "majority": 0.25, "tuned": {**result(0.3), "corrected": result(0.4)}}
    page = read_page(run_page(replace(run, metrics={**run.metrics, "tasks": {"AQuA": aqua}})))
    assert page.sections["accuracy"].count("AQuA, corrected") == 2
    assert "30.0% correct after tuning" in page.text


def test_the_map_says_how_many_blocks_of_each_weight_were_chosen(html: str) -> None:
    page = read_page(html)
    assert "layer 0, q_proj: 2 of 8 blocks (25.0%)" in page.values("title")
    assert "layer 0, v_proj: 0 of 4 blocks (0.0%)" in page.values("title")
    assert "layer 1, q_proj: 3 of 8 blocks (37.5%)" in page.values("title")
    text = page.sections["selection"]
    assert "5 of 20 blocks" in text
    assert "model.layers.1.self_attn.q_proj: 3 of 8 blocks of 16 x 16" in text
    assert "4 down for 64 outputs, 2 across for 32 inputs" in text
    # The fullest weight is what is seen first: the style sheet asks for it to stand last.
    weights = [value for value in page.values("id") if value.startswith("weight-")]
    assert weights == ["weight-0-q_proj", "weight-1-q_proj"]
    assert html.count('class="weight fullest"') == 1


def test_wrong_answers_show_the_question_what_was_expected_and_what_came(html: str) -> None:
    text = read_page(html).sections["wrong"]
    assert "11 of the tuned model's 31 answers are wrong, 1 of them because no answer" in text
    assert "Here they all are." in text
    assert text.count("Question ") == 11
    assert "How much is 3 + 1?" in text
    assert "expected4" in text
    assert "tuned, wrotethe correct answer is blue" in text
    assert "tuned, read asnothing" in text


def test_twenty_of_many_wrong_answers_are_shown(run: RunContents) -> None:
    tuned = {"boolq": [prediction(i, False) for i in range(100)]}
    text = read_page(run_page(replace(run, predictions={"tuned": tuned}))).sections["wrong"]
    assert text.count("Question ") == 20
    assert "Here are 20, spread evenly over tasks and rows." in text
    assert "base, read as" not in text


def test_the_versions_are_those_of_the_environment(html: str) -> None:
    text = read_page(html).sections["versions"]
    for part in ("torch 2.13.0", "peft not installed", "python 3.11.7", "commit c0ffee"):
        assert part.replace(" ", "") in text.replace(" ", "")


def test_what_a_model_wrote_is_text_whatever_it_wrote(run: RunContents, html: str) -> None:
    plain = read_page(html)
    nasty = [
        prediction(i, False, prompt=f"{i} {NASTY}", output=NASTY, extracted=NASTY, expected=NASTY)
        for i in range(3)
    ]
    metrics = {
        **run.metrics, "method": NASTY, "model": {"name": NASTY}, "paths": {NASTY: NASTY},
        "tasks": {NASTY: {"num_rows": 3, "majority": 0.1, "tuned": result(0.5)}},
        "stages": {NASTY: {"stage": NASTY, "seconds": 1.0}},
    }  # fmt: skip
    weights = [replace(weight, name=f"{weight.name}{NASTY}") for weight in run.weights]
    html = run_page(
        replace(
            run, name=NASTY, metrics=metrics, config_text=NASTY, weights=weights,
            datasets=[{**run.datasets[0], "name": NASTY, "source": NASTY}],
            environment={**run.environment, "platform": NASTY, "packages": {NASTY: NASTY}},
            predictions={who: {NASTY: nasty} for who in ("base", "tuned")}, missing=[NASTY],
        )
    )  # fmt: skip
    page = read_page(html)
    assert "script" not in page.tags
    assert set(page.tags) <= set(plain.tags) | {"details", "summary", "em"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") > 20
    assert not leaks(html)


def test_the_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = read_page(html)
    assert leaks(html) == []
    assert "script" not in page.tags
    links = {value for value in page.values("href") if not value.startswith("#")}
    assert links == {"https://mlflow.test/#/runs/1"}
    assert "default-src 'none'; style-src 'unsafe-inline'" in page.values("content")


@pytest.mark.parametrize(
    "empty", ["metrics", "records", "weights", "predictions", "environment", "config_text"]
)
def test_what_a_run_does_not_have_is_left_out_and_the_rest_stays(
    run: RunContents, empty: str
) -> None:
    default = next(f for f in fields(RunContents) if f.name == empty)
    nothing: Any = {} if default.default is MISSING else default.default
    page = read_page(run_page(replace(run, **{empty: nothing})))
    without = {
        "metrics": {"accuracy", "stages"}, "records": {"loss"}, "weights": {"selection"},
        "predictions": {"wrong"}, "environment": {"versions"},
        "config_text": {"config"},
    }[empty]  # fmt: skip
    assert list(page.sections) == [name for name in SECTIONS if name not in without]
    assert not {f"#{name}" for name in without} & set(page.values("href"))
    assert "None" not in page.text
    assert "nan" not in page.text.split()


def test_a_run_of_which_only_the_name_is_known_has_a_page() -> None:
    page = read_page(run_page(RunContents(name="mine", status="FAILED")))
    assert list(page.sections) == ["ran"]
    assert "This run is not finished: failed" in page.text


def test_a_run_that_was_right_everywhere_has_no_wrong_answers(run: RunContents) -> None:
    right = {"tuned": {"boolq": [prediction(i, True) for i in range(9)]}}
    assert "wrong" not in read_page(run_page(replace(run, predictions=right))).sections


def test_what_is_gone_is_named(run: RunContents) -> None:
    page = read_page(run_page(replace(run, missing=["/kept/stages/training-1/metrics.jsonl"])))
    assert "Gone, and so not shown: /kept/stages/training-1/metrics.jsonl" in page.text


def test_one_run_makes_one_page(run: RunContents, html: str) -> None:
    assert run_page(run) == html


def test_a_large_run_stays_a_small_file(run: RunContents) -> None:
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
            {"step": i, "metrics": {"train/loss": 1 + (i * 7919 % 1000) / 1000}}
            for i in range(30_000)
        ],
        predictions={
            "tuned": {"boolq": [prediction(i, False, output="a" * 9999) for i in range(10_000)]}
        },
    )
    assert len(run_page(large)) < 1_000_000
