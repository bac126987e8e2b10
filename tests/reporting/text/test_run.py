"""Claims about the table that a run prints."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from typing import Any

import pytest
from rich.console import Console

from smt_ray.documents.run import RunMetrics
from smt_ray.reporting.text import run as table
from smt_ray.reporting.text.tables import Cells


def _result(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "interval": [accuracy - 0.02, accuracy + 0.01]}


_VALUES: dict[str, Any] = {
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
    "paths": {"run": "/out/runs/" + "x" * 150 + "[/bold]", "tracking": "mlflow ui"},
}


def make_metrics(**changes: Any) -> RunMetrics:
    """A finished run with two tasks."""
    return RunMetrics.model_validate({**_VALUES, **changes})


def accuracy_cells(metrics: RunMetrics) -> Cells:
    cells = table.accuracy_cells(metrics)
    assert cells is not None
    return cells


def stage_cells(metrics: RunMetrics) -> Cells:
    cells = table.stage_cells(metrics)
    assert cells is not None
    return cells


def test_the_likelihood_columns_of_base_and_tuned_are_side_by_side() -> None:
    boolq = {**_VALUES["tasks"]["boolq"], "tuned_likelihood": _result(0.8)}
    cells = accuracy_cells(make_metrics(tasks={**_VALUES["tasks"], "boolq": boolq}))
    place = cells.head.index("tuned by likelihood")
    assert cells.head[place - 1] == "base by likelihood"
    assert [row[place] for row in cells.rows[:2]] == ["80.0 (78.0-81.0)", "-"]


def test_the_row_of_a_task_has_all_its_numbers() -> None:
    cells = accuracy_cells(make_metrics())
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
        # An average by likelihood would be over fewer tasks than the average beside it.
        ("average", "", "32.0", "-", "33.0", "38.0", "+5.0"),
        ("of all rows", "4,589", "44.8", "-", "44.9", "52.5", "+7.6"),
    )


def test_a_corrected_rule_has_its_own_row_which_does_not_count_in_averages() -> None:
    aqua = {"num_rows": 4, "base": {"accuracy": 0.25, "corrected": {"accuracy": 0.75}}}
    svamp = {"num_rows": 12, "base": {"accuracy": 0.5}}
    cells = accuracy_cells(RunMetrics.model_validate({"tasks": {"AQuA": aqua, "SVAMP": svamp}}))
    assert cells.rows == (
        ("AQuA", "4", "25.0"),
        ("AQuA, corrected", "-", "75.0"),
        ("SVAMP", "12", "50.0"),
        ("average", "", "37.5"),
        ("of all rows", "16", "43.8"),
    )


def test_columns_without_values_and_the_average_of_one_task_are_left_out() -> None:
    boolq = {"num_rows": 10, "base": {"accuracy": 0.5}}
    cells = accuracy_cells(RunMetrics.model_validate({"tasks": {"boolq": boolq}}))
    assert (cells.head, cells.rows) == (("task", "rows", "base"), (("boolq", "10", "50.0"),))


def test_the_facts_name_both_percentages_the_blocks_and_what_ran() -> None:
    facts = dict(table.facts(make_metrics()))
    assert facts["trainable"] == (
        "10,240 parameters, 0.829% of the base model, 0.823% of base + adapter"
    )
    assert facts["blocks"] == (
        "1,040 of 16 x 16, in 9 modules of 4 layers, q_proj 40 + v_proj 1,000, "
        "relative margin at the cut 1.2e-04"
    )
    assert facts["ran with"] == "batching padded, zero_stage 2"


def test_the_settings_of_a_method_are_its_factors() -> None:
    settings = {"rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
    facts = dict(table.facts(make_metrics(method_settings=settings)))
    assert facts["factors"] == "rank 8, alpha 16, dropout 0.05, of q_proj + v_proj"
    assert "factors" not in dict(table.facts(make_metrics()))


def test_every_path_has_a_label() -> None:
    fields = ("run", "report", "adapter", "adapter_base", "tracking", "tracked_run")
    facts = table.facts(RunMetrics.model_validate({"paths": {field: field for field in fields}}))
    assert facts == [
        ("run", "run"), ("report", "report"), ("adapter", "adapter"),
        ("adapter's base", "adapter_base"), ("mlflow", "tracking"), ("mlflow run", "tracked_run"),
    ]  # fmt: skip


def test_a_reused_stage_says_so_and_other_stages_show_their_time() -> None:
    assert stage_cells(make_metrics()).rows == (
        ("warmup", "1 min 15 s", "/out/stages/warmup-1"),
        ("training", "reused", "/out/stages/training-1"),
    )


def test_plain_text_has_every_cell_and_fact_without_wrapping_or_escape_codes() -> None:
    metrics = make_metrics()
    with redirect_stdout(io.StringIO()) as file:
        table.print_table(metrics)
    text = file.getvalue()
    assert "\x1b" not in text
    assert not re.search(r" $", text, flags=re.MULTILINE)
    lines = [re.sub(r" {2,}", "|", line.strip()) for line in text.splitlines()]
    for row in (*accuracy_cells(metrics).rows, *stage_cells(metrics).rows):
        assert "|".join(cell for cell in row if cell) in lines
    for fact in table.facts(metrics):
        assert "|".join(fact) in lines


def test_the_table_can_be_written_to_an_ascii_log() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    with redirect_stdout(file):
        table.print_table(make_metrics())
    file.flush()
    assert b"72.0 (70.0-73.0)" in raw.getvalue()


def test_a_terminal_shows_gains_in_colour() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, color_system="standard")
    table._render(make_metrics(), console)
    assert re.search(r"\x1b\[32m *\+11\.0", file.getvalue())
    assert re.search(r"\x1b\[31m *-1\.0", file.getvalue())


def test_every_line_of_a_markdown_table_has_the_same_number_of_cells() -> None:
    paths = {"run": "a|b"}
    lines = table.to_markdown(make_metrics(paths=paths)).splitlines()
    assert lines[0] == "### smt-quickstart (smt)"
    assert "| gsm8k | 1,319 | 2.0 | - | 5.0 (3.0-6.0) | 4.0 (2.0-5.0) | -1.0 |" in lines
    assert "| --- | ---: | --- |" in lines, "directories are aligned left"
    assert r"- run: a\|b" in lines
    widths = [line.count("|") for line in lines if line.startswith("|")]
    assert widths == [8] * 6 + [4] * 4


@pytest.mark.parametrize("until", ["", "selection", "training"])
def test_a_partial_run_prints_what_it_has(until: str) -> None:
    parts = {"": [], "selection": ["selection"], "training": ["selection", "trainable"]}[until]
    partial = RunMetrics.model_validate({"name": "a", **{part: _VALUES[part] for part in parts}})
    with redirect_stdout(io.StringIO()) as file:
        table.print_table(partial)
    text = file.getvalue()
    assert text.startswith("a\n")
    assert [name for name, _ in table.facts(partial)] == [
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
def test_a_duration_is_rounded_to_the_next_unit(seconds: float | None, text: str) -> None:
    assert table.format_seconds(seconds) == text
