"""Claims about the progress of trials: the lines that are printed, and the record."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smt_ray.documents.search import FAILED, FINISHED, RUNNING, STOPPED, Point
from smt_ray.errors import UserError
from smt_ray.search.progress import TrialProgress
from smt_ray.search.trial import METRIC, POINT, STEP, TRAINED
from smt_ray.search.trial_record import TrialRecord
from tests.search.searches import FOLDER, POINTS

MISTAKE = UserError("training", "its loss must be finite", got="nan", fix="a lower learning rate")


def tune_trial(point: Point, last: dict[str, Any]) -> Any:
    """A trial as Ray Tune gives it to callbacks."""
    return SimpleNamespace(
        trial_id=f"t{POINTS.index(point)}", config={POINT: point}, last_result=last
    )


def fail(trial: Any, error: str, folder: Path) -> None:
    """Writes the file that Ray Tune writes when a trial fails."""
    file = folder / f"{trial.trial_id}.txt"
    file.write_text(f"Failure # 1 (occurred at 2026-01-01_00-00-00)\n{error}\n")
    trial.error_file = str(file)


def test_the_status_of_every_trial_is_written_down_at_once(tmp_path: Path) -> None:
    record = TrialRecord(str(tmp_path), FOLDER)
    trials = [
        tune_trial(POINTS[0], {STEP: 8, METRIC: 0.5, TRAINED: True}),
        tune_trial(POINTS[1], {STEP: 2, METRIC: 0.9}),
        tune_trial(POINTS[2], {}),
    ]
    progress = TrialProgress(record, 3)
    for trial in trials:
        progress.on_trial_start(0, trials, trial)
    progress.on_trial_complete(0, trials, trials[0])
    progress.on_trial_complete(0, trials, trials[1])
    entries = TrialRecord(str(tmp_path), FOLDER).entries
    assert [entry.status for entry in entries] == [FINISHED, STOPPED, RUNNING]
    assert [entry.seconds is None for entry in entries] == [False, False, True]
    fail(trials[2], "it went wrong", tmp_path)
    progress.on_trial_error(0, trials, trials[2])
    last = TrialRecord(str(tmp_path), FOLDER).entries[-1]
    assert (last.point, last.status, last.error) == (POINTS[2], FAILED, "it went wrong")


def test_the_line_of_a_failed_trial_says_why_it_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [tune_trial(POINTS[0], {}), tune_trial(POINTS[1], {})]
    progress = TrialProgress(TrialRecord(str(tmp_path), FOLDER), 2)
    user_error = f"Traceback\n  far away\nsmt_ray.errors.UserError: {MISTAKE}"
    for trial, error in zip(trials, [user_error, "a\nb is bad"], strict=True):
        progress.on_trial_start(0, trials, trial)
        fail(trial, error, tmp_path)
        progress.on_trial_error(0, trials, trial)
    said = capsys.readouterr().err
    assert f"trial 1: FAILED ({MISTAKE})" in said
    assert "trial 2: FAILED (b is bad)" in said
