"""A comparison's tables, files and pictures say what its cells hold."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from smt_ray.reporting.charts.comparison import draw_table
from smt_ray.reporting.text.comparison import (
    claim_text,
    layer_lines,
    legend_text,
    table_lines,
    task_interval_lines,
    to_csv,
    to_markdown,
)
from tests.reporting.comparisons import comparison_results


@pytest.fixture
def results() -> dict[str, Any]:
    return comparison_results()


def test_a_table_of_tasks_has_every_accuracy_the_average_and_the_seeds(
    results: dict[str, Any],
) -> None:
    assert table_lines(results["tables"]["methods"]) == [
        [
            "",
            "learning rate",
            "% of base",
            "validation loss",
            "boolq",
            "piqa",
            "average",
            "by seed",
        ],
        ["smt", "0.001", "0.840", "1.0000", "50.0", "50.0", "50.0 (40.0 to 60.0)", "50.0 50.0"],
        ["lora", "0.001", "0.840", "0.5000", "25.0", "25.0", "25.0 (15.0 to 35.0)", "25.0 25.0"],
        ["bad", "0.001", "-", "-", "-", "-", "failed", ""],
    ]


def test_losses_have_no_column_where_no_rows_were_held_out(results: dict[str, Any]) -> None:
    table = results["tables"]["methods"]
    for row in table["rows"].values():
        row[""] = {key: value for key, value in row[""].items() if key != "validation_loss"}
    assert table_lines(table)[0][:4] == ["", "learning rate", "% of base", "boolq"]


def test_a_tasks_accuracies_have_intervals_where_they_were_measured(
    results: dict[str, Any],
) -> None:
    assert task_interval_lines(results["tables"]["methods"]) == [
        ["", "boolq", "piqa"],
        ["smt", "50.0 (35.0 to 65.0)", "50.0 (35.0 to 65.0)"],
        ["lora", "25.0 (10.0 to 40.0)", "25.0 (10.0 to 40.0)"],
    ]


def test_one_seed_is_called_one(results: dict[str, Any]) -> None:
    assert legend_text(results).startswith("Every cell is a run for each of the seeds 0, 1. ")
    assert legend_text({"seeds": [7]}).startswith("Every cell is a run for seed 7. ")


def test_tables_of_speed_shares_and_settings(results: dict[str, Any]) -> None:
    tables = results["tables"]
    assert table_lines(tables["speed"]) == [
        ["", "seconds a step", "times as fast as smt", "batches"],
        ["smt", "0.500 (0.250 to 1.000)", "1.00", "packed"],
        ["lora", "0.250 (0.125 to 0.500)", "2.00", "packed"],
        ["bad", "-", "-", "-"],
    ]
    shares = ["37.5% (25.0% to 50.0%)", "62.5% (50.0% to 75.0%)"]
    assert table_lines(tables["shares"]) == [
        ["", "q_proj", "v_proj"], ["smt", *shares], ["lora", *shares],
        ["bad", "-", "-"], ["layers with a chosen block, smt", "1 of 2", "2 of 2"],
    ]  # fmt: skip
    assert table_lines(tables["budgets"]) == [
        ["", "1%", "2%"],
        ["smt", "50.0 (40.0 to 60.0)", "75.0 (65.0 to 85.0)"],
        ["lora", "25.0 (15.0 to 35.0)", "failed"],
    ]


def test_nothing_is_as_fast_as_a_first_row_that_failed(results: dict[str, Any]) -> None:
    speed = results["tables"]["speed"]
    speed["rows"] = dict(reversed(speed["rows"].items()))
    assert [line[2] for line in table_lines(speed)] == ["times as fast as bad", "-", "-", "-"]


def test_each_tasks_interval_stands_in_the_files(results: dict[str, Any]) -> None:
    methods = results["tables"]["methods"]
    assert table_lines(methods, intervals=True)[1][4:6] == ["50.0 (35.0 to 65.0)"] * 2
    assert "50.0 (35.0 to 65.0)" in to_csv(methods)
    assert to_markdown(results).count("50.0 (35.0 to 65.0)") == 2


def test_layers_stand_beside_the_shares(results: dict[str, Any]) -> None:
    assert layer_lines(results["tables"]["shares"]) == [
        ["row", "layer", "projection", "chosen blocks", "blocks"],
        ["smt", "0", "q_proj", "0", "4"], ["smt", "0", "v_proj", "1", "4"],
        ["smt", "1", "q_proj", "1", "4"], ["smt", "1", "v_proj", "2", "4"],
    ]  # fmt: skip
    assert layer_lines(results["tables"]["methods"]) == []
    assert "![layers, smt](shares_smt_layers.png)" in to_markdown(results)


def test_claims_of_speed_are_answered_in_times(results: dict[str, Any]) -> None:
    (claim,) = results["tables"]["speed"]["claims"]
    assert claim_text(claim) == (
        "lora faster than smt (Table 1): **not resolved**, 2.00 times (0.50 to 8.00)"
    )


def test_claims_are_answered_in_points(results: dict[str, Any]) -> None:
    (claim,) = results["tables"]["methods"]["claims"]
    assert claim_text(claim) == (
        "smt above lora (Table 2): **held**, +25.0 points (+12.5 to +37.5)"
    )
    unresolved = {"better": "a", "worse": "b", "source": "", "verdict": "not resolved"}
    assert claim_text({**unresolved, "reason": "a run failed"}) == (
        "a above b: **not resolved**, a run failed"
    )


def test_a_csv_has_the_tables_cells_and_failures_are_named(results: dict[str, Any]) -> None:
    for of_table in results["tables"].values():
        lines = table_lines(of_table, intervals=True)
        assert list(csv.reader(io.StringIO(to_csv(of_table)))) == lines
    text = to_markdown(results)
    assert "- bad: out of memory" in text
    assert "| smt | 0.001: 0.5000, 1: - | 0.001 |" in text
    assert "smt above lora (Table 2): **held**" in text


def test_every_kind_of_table_has_a_picture(results: dict[str, Any], tmp_path: Path) -> None:
    for name, of_table in results["tables"].items():
        picture = draw_table(of_table, tmp_path / f"{name}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
