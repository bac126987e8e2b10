"""Claims about the table and the pictures of a search."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from smt_ray.reporting.charts.search import save_curves, save_key
from smt_ray.reporting.text.search import print_trials, to_csv, to_markdown, trial_cells
from tests.reporting.searches import POINT, search_results, three_trials, trial


def test_a_row_of_the_table_has_the_settings_and_the_status_of_a_trial() -> None:
    cells = trial_cells(three_trials())
    assert cells.head == (
        "trial", "block_size", "learning_rate", "step", "validation loss", "time", "status",
    )  # fmt: skip
    assert cells.rows[0] == ("s-1", "8", "0.001234", "4", "0.5123", "1 min 15 s", "finished")
    assert cells.rows[2] == ("-", "8", "0.001234", "-", "-", "-", "failed: out of | memory")


def test_a_key_that_a_trial_does_not_set_differs_from_a_key_that_is_none() -> None:
    trials = [trial("s-1", "finished", 0.5, point={key: None}) for key in ("a.b", "a.c")]
    assert [row[1:3] for row in trial_cells(trials).rows] == [("none", "-"), ("-", "none")]


def test_the_csv_has_all_digits_and_whole_keys() -> None:
    head, first, *_, last = csv.reader(io.StringIO(to_csv(three_trials())))
    assert head[:3] == ["run", "selection.block_size", "training.learning_rate"]
    assert first[:5] == ["s-1", "8", "0.0012345", "4", "0.512345"]
    assert last[-1] == "out of | memory"


def test_the_markdown_names_every_trial_and_picture() -> None:
    text = to_markdown(search_results())
    assert all(name in text for name in ("s-1", "s-2", r"failed: out of \| memory"))
    assert "](loss_over_training.learning_rate.png)" in text


def test_a_terminal_shows_every_trial(capsys: pytest.CaptureFixture[str]) -> None:
    print_trials(three_trials())
    assert "stopped early" in capsys.readouterr().out


@pytest.mark.parametrize("is_finished", [True, False])
def test_numbers_and_names_can_be_drawn_even_if_no_trial_finished(
    tmp_path: Path, is_finished: bool
) -> None:
    trials = three_trials(point={**POINT, "selection.score": "random"})
    trials = trials if is_finished else trials[2:]
    save_curves(trials, tmp_path / "curves.png")
    for key, is_log in (("selection.score", False), ("training.learning_rate", True)):
        save_key(trials, key, tmp_path / f"{key}.png", is_log=is_log)
    pictures = list(tmp_path.iterdir())
    assert len(pictures) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
