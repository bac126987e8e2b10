"""Claims about what a search knows of its trials, and what a later start tries again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError
from smt_ray.search.outcomes import TrialLines, close_trials, read_trials, settle
from smt_ray.search.trial import METRIC, STEP, TRAINED
from smt_ray.search.trial_record import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    TrialRecord,
    make_entry,
)
from tests.search.searches import KEY, RATES, leave_run, make_search

POINTS = [{KEY: rate} for rate in RATES]
MISTAKE = UserError("training", "its loss must be finite", got="nan", fix="a lower learning rate")


def make_record(storage: Path, *statuses: str) -> TrialRecord:
    """Of a search whose trials stood so."""
    record = TrialRecord(str(storage), "searches/mine")
    for i, status in enumerate(statuses):
        record.put(make_entry(f"t{i}", POINTS[i], status))
    return record


def of_tune(point: dict[str, Any], last: dict[str, Any]) -> Any:
    """A trial as Ray Tune hands it to callbacks."""
    return SimpleNamespace(
        trial_id=f"t{POINTS.index(point)}", config={"point": point}, last_result=last
    )


def fail(trial: Any, raised: str, folder: Path) -> None:
    """Leaves what Ray Tune writes of a failure; it copies nothing to the storage until later."""
    file = folder / f"{trial.trial_id}.txt"
    file.write_text(f"Failure # 1 (occurred at 2026-01-01_00-00-00)\n{raised}\n")
    trial.error_file = str(file)


def test_what_becomes_of_trials_is_written_as_it_happens(tmp_path: Path) -> None:
    record = TrialRecord(str(tmp_path), "searches/mine")
    trials = [
        of_tune(POINTS[0], {STEP: 8, METRIC: 0.5, TRAINED: True}),
        of_tune(POINTS[1], {STEP: 2, METRIC: 0.9}),
        of_tune(POINTS[2], {}),
    ]
    lines = TrialLines(record, 3)
    for trial in trials:
        lines.on_trial_start(0, trials, trial)
    lines.on_trial_complete(0, trials, trials[0])
    lines.on_trial_complete(0, trials, trials[1])
    statuses = [e["status"] for e in TrialRecord(str(tmp_path), "searches/mine").entries]
    assert statuses == [FINISHED, STOPPED, RUNNING]
    fail(trials[2], "it went wrong", tmp_path)
    lines.on_trial_error(0, trials, trials[2])
    last = TrialRecord(str(tmp_path), "searches/mine").entries[-1]
    assert (last["point"], last["status"], last["error"]) == (POINTS[2], FAILED, "it went wrong")


def test_a_trial_that_fails_says_why_in_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [of_tune(POINTS[0], {}), of_tune(POINTS[1], {})]
    lines = TrialLines(TrialRecord(str(tmp_path), "searches/mine"), 2)
    far_away = f"Traceback\n  far away\nsmt_ray.errors.UserError: {MISTAKE}"
    for trial, raised in zip(trials, [far_away, "a\nb is bad"], strict=True):
        lines.on_trial_start(0, trials, trial)
        fail(trial, raised, tmp_path)
        lines.on_trial_error(0, trials, trial)
    said = capsys.readouterr().err
    assert f"trial 1: FAILED ({MISTAKE})" in said
    assert "trial 2: FAILED (b is bad)" in said


def test_a_later_start_tries_what_failed_what_was_cut_off_and_what_never_began(
    tmp_path: Path,
) -> None:
    config = make_search(tmp_path)
    leave_run(config, POINTS[1], {2: 0.9}, trained=False, status="RUNNING")
    assert settle(config, make_record(tmp_path, FAILED, RUNNING), POINTS) == POINTS
    assert not TrialRecord(str(tmp_path), "searches/mine").entries


def test_a_later_start_keeps_what_is_finished_and_what_was_stopped(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    leave_run(config, POINTS[0], {8: 0.5})
    leave_run(config, POINTS[1], {2: 0.9}, trained=False, status="RUNNING")
    record = make_record(tmp_path, FINISHED, STOPPED, RUNNING)
    assert settle(config, record, POINTS) == [POINTS[2]]
    assert [entry["status"] for entry in record.entries] == [FINISHED, STOPPED]


def test_a_trial_that_finished_as_the_search_was_killed_is_not_trained_again(
    tmp_path: Path,
) -> None:
    config = make_search(tmp_path)
    leave_run(config, POINTS[0], {8: 0.5})
    leave_run(config, POINTS[1], {8: 0.6}, status="RUNNING")
    record = make_record(tmp_path, RUNNING, RUNNING)
    assert settle(config, record, POINTS) == POINTS[1:], "a run under way is to be ended"
    assert [entry["status"] for entry in record.entries] == [FINISHED]


def test_a_finished_trial_whose_training_is_gone_is_trained_again(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    assert settle(config, make_record(tmp_path, FINISHED), POINTS) == POINTS


def test_a_search_that_draws_as_it_goes_tries_again_what_it_had_drawn(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    leave_run(config, POINTS[0], {8: 0.5})
    record = make_record(tmp_path, FINISHED, RUNNING)
    assert settle(config, record, None) == [POINTS[1]]


def test_trials_are_read_from_the_stages_the_best_first(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    leave_run(config, POINTS[0], {2: 0.9, 8: 0.6})
    leave_run(config, POINTS[1], {2: 0.8, 8: 0.5})
    leave_run(config, POINTS[2], {2: 0.1}, trained=False)
    found = read_trials(config, make_record(tmp_path, FINISHED, FINISHED, STOPPED).entries)
    assert [(t["point"], t["status"], t["loss"]) for t in found] == [
        (POINTS[1], FINISHED, 0.5), (POINTS[0], FINISHED, 0.6), (POINTS[2], STOPPED, 0.1),
    ]  # fmt: skip
    assert found[0]["history"] == [(2, 0.8), (8, 0.5)]


def test_trials_that_drew_the_same_run_are_one_that_finished(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    leave_run(config, POINTS[0], {8: 0.5})
    drawn = [make_entry("t0", POINTS[0], FAILED, "first"), make_entry("t1", POINTS[0], FINISHED)]
    (found,) = read_trials(config, drawn)
    assert (found["status"], found["loss"]) == (FINISHED, 0.5)


@pytest.mark.parametrize(
    ("trial", "run", "ends"),
    [
        (STOPPED, "RUNNING", "KILLED"),
        (STOPPED, "FAILED", "KILLED"),
        (FAILED, "RUNNING", "FAILED"),
        (FAILED, "FAILED", None),
        (STOPPED, "KILLED", None),
        (FINISHED, "FINISHED", None),
    ],
)
def test_runs_end_as_their_trials_did_and_the_tracker_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: str, run: str, ends: str | None
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("smt_ray.search.outcomes.log_run", lambda _, name: sent.append(name))
    folder = RunFolder(Storage(str(tmp_path)), "one")
    folder.update(status=run, tags={}, config={"tracking": {"enabled": True}})
    for _ in range(2):
        close_trials(folder.storage, [{"run": "one", "status": trial, "ended_ms": 5}])
    assert folder.manifest()["status"] == (ends or run)
    assert sent == (["one"] if ends else [])
    assert ("trial" in folder.manifest()["tags"]) == (ends is not None)
