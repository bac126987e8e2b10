"""Claims about the tables, files and pictures of a comparison."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from smt_ray.documents.comparison import TableResult
from smt_ray.reporting.charts.comparison import draw_table
from smt_ray.reporting.text.comparison import (
    claim_text,
    layer_lines,
    legend_text,
    table_cells,
    task_interval_cells,
    to_csv,
    to_markdown,
)
from tests.reporting.comparisons import FASTER, HELD, cell, claim, comparison_results, table

TABLES = comparison_results().tables


def lines(shown: TableResult) -> list[tuple[str, ...]]:
    cells = table_cells(shown)
    return [cells.head, *cells.rows]


def test_a_table_of_tasks_has_the_accuracies_the_average_and_the_seeds() -> None:
    assert lines(TABLES["methods"]) == [
        (
            "",
            "learning rate",
            "% of base",
            "validation loss",
            "boolq",
            "piqa",
            "average",
            "by seed",
        ),
        ("smt", "0.001", "0.840", "1.0000", "50.0", "50.0", "50.0 (40.0 to 60.0)", "50.0 50.0"),
        ("lora", "0.001", "0.840", "0.5000", "25.0", "25.0", "25.0 (15.0 to 35.0)", "25.0 25.0"),
        ("bad", "0.001", "-", "-", "-", "-", "failed", ""),
    ]


def test_a_table_without_validation_has_no_column_of_losses() -> None:
    head, *_ = lines(table("tasks", {"smt": {"": cell(0.5, validation_loss=None)}}))
    assert head[:4] == ("", "learning rate", "% of base", "boolq")


def test_accuracies_by_task_have_intervals_if_they_were_measured() -> None:
    cells = task_interval_cells(TABLES["methods"])
    assert cells is not None
    assert cells.head == ("", "boolq", "piqa")
    assert cells.rows == (
        ("smt", "50.0 (35.0 to 65.0)", "50.0 (35.0 to 65.0)"),
        ("lora", "25.0 (10.0 to 40.0)", "25.0 (10.0 to 40.0)"),
    )
    without = table("tasks", {"smt": {"": cell(0.5, task_intervals={})}})
    assert task_interval_cells(without) is None


def test_the_legend_names_the_seeds_and_the_meaning_of_intervals() -> None:
    assert legend_text([0, 1]).startswith("Each cell is one run for each of the seeds 0, 1. ")
    assert legend_text([7]).startswith("Each cell is one run, with seed 7. ")
    note = "With one seed, the intervals describe the sampling of test rows only."
    assert note in legend_text([7])
    assert note not in legend_text([0, 1])


def test_tables_of_speed_shares_and_settings() -> None:
    assert lines(TABLES["speed"]) == [
        ("", "seconds a step", "times as fast as smt", "batches"),
        ("smt", "0.500 (0.250 to 1.000)", "1.00", "packed"),
        ("lora", "0.250 (0.125 to 0.500)", "2.00", "packed"),
        ("bad", "-", "-", "-"),
    ]
    shares = ("37.5% (25.0% to 50.0%)", "62.5% (50.0% to 75.0%)")
    assert lines(TABLES["shares"]) == [
        ("", "q_proj", "v_proj"), ("smt", *shares), ("lora", *shares),
        ("bad", "-", "-"), ("layers with a chosen block, smt", "1 of 2", "2 of 2"),
    ]  # fmt: skip
    assert lines(TABLES["budgets"]) == [
        ("", "1%", "2%"),
        ("smt", "50.0 (40.0 to 60.0)", "75.0 (65.0 to 85.0)"),
        ("lora", "25.0 (15.0 to 35.0)", "failed"),
    ]


def test_a_row_without_a_projection_has_no_share_of_it() -> None:
    rows = {"all": {"": cell(0.5)}, "v": {"": cell(0.5, shares=[{"v_proj": 1.0}])}}
    assert lines(table("projections", rows))[2] == ("v", "-", "100.0%")


def test_no_row_has_a_speed_relative_to_a_first_row_that_failed() -> None:
    speed = table("speed", dict(reversed(TABLES["speed"].rows.items())))
    assert [line[2] for line in lines(speed)] == ["times as fast as bad", "-", "-", "-"]


def test_the_files_have_the_interval_of_each_task() -> None:
    methods = TABLES["methods"]
    intervals = table_cells(methods, with_intervals=True).rows[0][4:6]
    assert intervals == ("50.0 (35.0 to 65.0)",) * 2
    assert "50.0 (35.0 to 65.0)" in to_csv(methods)
    assert to_markdown(comparison_results()).count("50.0 (35.0 to 65.0)") == 2


def test_the_layers_of_the_chosen_blocks_are_listed() -> None:
    cells = layer_lines(TABLES["shares"])
    assert cells is not None
    assert cells.head == ("row", "layer", "projection", "chosen blocks", "blocks")
    assert cells.rows == (
        ("smt", "0", "q_proj", "0", "4"), ("smt", "0", "v_proj", "1", "4"),
        ("smt", "1", "q_proj", "1", "4"), ("smt", "1", "v_proj", "2", "4"),
    )  # fmt: skip
    assert layer_lines(TABLES["methods"]) is None
    assert "![layers, smt](shares_smt_layers.png)" in to_markdown(comparison_results())


def test_a_claim_of_speed_is_answered_in_times() -> None:
    assert claim_text(FASTER) == (
        "lora faster than smt (Table 1): **not resolved**, 2.00 times (0.50 to 8.00)"
    )


def test_a_claim_of_accuracy_is_answered_in_points() -> None:
    assert claim_text(HELD) == "smt above lora (Table 2): **held**, +25.0 points (+12.5 to +37.5)"
    assert claim_text(claim("a", "b", reason="a run failed")) == (
        "a above b: **not resolved**, a run failed"
    )


@pytest.mark.parametrize("name", TABLES)
def test_a_csv_has_the_cells_of_the_table(name: str) -> None:
    cells = table_cells(TABLES[name], with_intervals=True)
    read = [tuple(line) for line in csv.reader(io.StringIO(to_csv(TABLES[name])))]
    assert read == [cells.head, *cells.rows]


def test_the_markdown_has_learning_rates_claims_and_failures() -> None:
    text = to_markdown(comparison_results())
    assert "- bad: out of memory" in text
    assert "| smt | 0.001: 0.5000, 1: - | 0.001 |" in text
    assert "smt above lora (Table 2): **held**" in text


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_of_table_has_a_picture(name: str, tmp_path: Path) -> None:
    picture = tmp_path / f"{name}.png"
    draw_table(TABLES[name], picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
