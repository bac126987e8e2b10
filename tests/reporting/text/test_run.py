"""Claims about the table that a run prints."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from smt_ray.reporting.text import run as table


def _result(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "interval": [accuracy - 0.02, accuracy + 0.01]}


@pytest.fixture
def metrics() -> dict[str, Any]:
    """A finished run with two tasks."""
    return {
        "name": "smt-quickstart",
        "method": "smt",
        "model": {"name": "builtin", "num_parameters": 1_234_567},
        "tasks": {
            "boolq": {
                "num_rows": 3270,
                "majority": 0.62,
                "base": _result(0.61),
                "base_likelihood": _result(0.65),
                "tuned": _result(0.72),
            },
            "gsm8k": {
                "num_rows": 1319,
                "majority": 0.02,
                "base": _result(0.05),
                "base_likelihood": None,
                "tuned": _result(0.04),
            },
        },
        "trainable": {
            "num_trainable": 10_240,
            "num_base": 1_234_567,
            "percent_of_base": 0.8294,
            "percent_of_total": 0.8226,
        },
        "selection": {
            "num_blocks": 1040,
            "block_size": 16,
            "num_modules": 9,
            "num_layers": 4,
            "projections": {"q_proj": 40, "v_proj": 1000},
            "margin": 1.23e-4,
        },
        "stages": {
            "warmup": {"seconds": 75.2, "reused": False, "directory": "/out/stages/warmup-1"},
            "training": {"seconds": 3.0, "reused": True, "directory": "/out/stages/training-1"},
        },
        "ran": {"batching": "padded", "zero_stage": 2},
        "paths": {"run": "/out/runs/" + "x" * 150 + "[/bold]", "MLflow": "mlflow ui"},
    }


def test_the_tuned_model_by_likelihood_stands_beside_the_base_by_likelihood(
    metrics: dict[str, Any],
) -> None:
    metrics["tasks"]["boolq"]["tuned_likelihood"] = _result(0.8)
    cells = table.accuracy_cells(metrics)
    assert cells is not None
    place = cells.head.index("tuned by likelihood")
    assert cells.head[place - 1] == "base by likelihood"
    assert [row[place] for row in cells.rows[:2]] == ["80.0 (78.0-81.0)", "-"]


def test_every_number_of_a_task_stands_in_its_row(metrics: dict[str, Any]) -> None:
    cells = table.accuracy_cells(metrics)
    assert cells is not None
    assert cells.head == (
        "task",
        "rows",
        "majority",
        "base by likelihood",
        "base",
        "tuned",
        "gain",
    )
    assert cells.rows == (
        (
            "boolq",
            "3,270",
            "62.0",
            "65.0 (63.0-66.0)",
            "61.0 (59.0-62.0)",
            "72.0 (70.0-73.0)",
            "+11.0",
        ),
        ("gsm8k", "1,319", "2.0", "-", "5.0 (3.0-6.0)", "4.0 (2.0-5.0)", "-1.0"),
        # No average by likelihood: it would be over fewer tasks than the one beside it.
        ("average", "", "32.0", "-", "33.0", "38.0", "+5.0"),
        ("of all rows", "4,589", "44.8", "-", "44.9", "52.5", "+7.6"),
    )


def test_what_a_corrected_rule_reads_has_a_row_that_no_average_counts() -> None:
    aqua = {"num_rows": 4, "base": {"accuracy": 0.25, "corrected": {"accuracy": 0.75}}}
    metrics = {"tasks": {"AQuA": aqua, "SVAMP": {"num_rows": 12, "base": {"accuracy": 0.5}}}}
    cells = table.accuracy_cells(metrics)
    assert cells is not None
    assert cells.rows == (
        ("AQuA", "4", "25.0"),
        ("AQuA, corrected", "-", "75.0"),
        ("SVAMP", "12", "50.0"),
        ("average", "", "37.5"),
        ("of all rows", "16", "43.8"),
    )


def test_columns_without_values_and_the_average_of_one_task_are_left_out() -> None:
    metrics = {"tasks": {"boolq": {"num_rows": 10, "base": {"accuracy": 0.5}}}}
    cells = table.accuracy_cells(metrics)
    assert cells is not None
    assert (cells.head, cells.rows) == (("task", "rows", "base"), (("boolq", "10", "50.0"),))


def test_both_percentages_of_trainable_parameters_are_named(metrics: dict[str, Any]) -> None:
    facts = dict(table.facts(metrics))
    assert facts["trainable"] == (
        "10,240 parameters, 0.829% of the base model, 0.823% of base + adapter"
    )
    assert facts["blocks"] == (
        "1,040 of 16 x 16, in 9 modules of 4 layers, q_proj 40 + v_proj 1,000, "
        "relative margin at the cut 1.2e-04"
    )
    assert facts["ran with"] == "batching padded, zero_stage 2"


def test_a_stage_found_finished_says_reused_and_the_others_their_time(
    metrics: dict[str, Any],
) -> None:
    cells = table.stage_cells(metrics)
    assert cells is not None
    assert cells.rows == (
        ("warmup", "1 min 15 s", "/out/stages/warmup-1"),
        ("training", "reused", "/out/stages/training-1"),
    )


def test_plain_text_holds_every_cell_and_fact_unwrapped_and_no_escape_codes(
    metrics: dict[str, Any],
) -> None:
    file = io.StringIO()
    table.print_table(metrics, file)
    text = file.getvalue()
    assert text == table.to_text(metrics)
    assert "\x1b" not in text
    assert not re.search(r" $", text, flags=re.MULTILINE)
    accuracy, stages = table.accuracy_cells(metrics), table.stage_cells(metrics)
    assert accuracy is not None
    assert stages is not None
    lines = [re.sub(r" {2,}", "|", line.strip()) for line in text.splitlines()]
    for row in (*accuracy.rows, *stages.rows):
        assert "|".join(cell for cell in row if cell) in lines
    for fact in table.facts(metrics):
        assert "|".join(fact) in lines


def test_an_ascii_log_takes_the_table(metrics: dict[str, Any]) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    table.print_table(metrics, file)
    file.flush()
    assert b"72.0 (70.0-73.0)" in raw.getvalue()


def test_a_terminal_gets_colours_for_gains(metrics: dict[str, Any]) -> None:
    file = io.StringIO()
    table._render(
        metrics, Console(file=file, force_terminal=True, width=100, color_system="standard")
    )
    assert re.search(r"\x1b\[32m *\+11\.0", file.getvalue())
    assert re.search(r"\x1b\[31m *-1\.0", file.getvalue())


def test_markdown_tables_have_as_many_cells_in_every_line(metrics: dict[str, Any]) -> None:
    metrics["paths"]["odd"] = "a|b"
    lines = table.to_markdown(metrics).splitlines()
    assert lines[0] == "### smt-quickstart (smt)"
    assert "| gsm8k | 1,319 | 2.0 | - | 5.0 (3.0-6.0) | 4.0 (2.0-5.0) | -1.0 |" in lines
    assert "| --- | ---: | --- |" in lines, "directories align left"
    assert r"- odd: a\|b" in lines
    widths = [line.count("|") for line in lines if line.startswith("|")]
    assert widths == [8] * 6 + [4] * 4


@pytest.mark.parametrize("until", ["", "selection", "training"])
def test_a_partial_run_prints_what_there_is(metrics: dict[str, Any], until: str) -> None:
    kept = {"": 0, "selection": 1, "training": 2}[until]
    parts = ["selection", "trainable"][:kept]
    partial = {"name": "a", **{part: metrics[part] for part in parts}}
    text = table.to_text(partial)
    assert text.startswith("a\n")
    assert [what for what, _ in table.facts(partial)] == [
        name
        for name, part in (("trainable", "trainable"), ("blocks", "selection"))
        if part in parts
    ]
    assert "None" not in text
    assert "task" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (59.99, "1 min 00 s"),
        (3599.9, "1 h 00 min"),
        (36_061, "10 h 01 min"),
    ],
)
def test_durations_read_well_at_their_borders(seconds: float | None, text: str) -> None:
    assert table.format_seconds(seconds) == text
