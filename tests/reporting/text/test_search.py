"""Claims about a search's table and pictures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from smt_ray.reporting.charts.search import save_curves, save_key
from smt_ray.reporting.text.search import print_trials, to_csv, to_markdown, trial_cells
from tests.reporting.searches import three_trials


@pytest.fixture
def trials() -> list[dict[str, Any]]:
    return three_trials()


def test_a_row_of_the_table_is_a_trial_with_its_settings_and_how_it_ended(
    trials: list[dict[str, Any]],
) -> None:
    cells = trial_cells(trials)
    assert cells.head == (
        "trial", "block_size", "learning_rate", "step", "validation loss", "time", "status",
    )  # fmt: skip
    assert cells.rows[0] == ("s-1", "8", "0.001234", "4", "0.5123", "1 min 15 s", "finished")
    assert cells.rows[2] == ("-", "8", "0.001234", "-", "-", "-", "failed: out of | memory")


def test_csv_has_every_digit_and_whole_keys(trials: list[dict[str, Any]]) -> None:
    head, first, *_, last = csv.reader(io.StringIO(to_csv(trials)))
    assert head[:3] == ["run", "selection.block_size", "training.learning_rate"]
    assert first[:5] == ["s-1", "8", "0.0012345", "4", "0.512345"]
    assert last[-1] == "out of | memory"


def test_markdown_names_every_trial_and_picture(trials: list[dict[str, Any]]) -> None:
    text = to_markdown({"name": "s", "trials": trials})
    assert all(name in text for name in ("s-1", "s-2", r"failed: out of \| memory"))
    assert "](loss_over_training.learning_rate.png)" in text


def test_a_terminal_shows_every_trial(
    trials: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    print_trials(trials)
    assert "stopped early" in capsys.readouterr().out


def test_pictures_are_drawn_of_numbers_and_names_and_where_nothing_finished(
    trials: list[dict[str, Any]], tmp_path: Path
) -> None:
    for shown in (trials, trials[2:]):
        for one in shown:
            one["point"]["selection.score"] = "random"
        paths = [save_curves(shown, tmp_path / "curves.png")]
        for key, is_log in (("selection.score", False), ("training.learning_rate", True)):
            paths.append(save_key(shown, key, tmp_path / f"{key}.png", is_log=is_log))
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
