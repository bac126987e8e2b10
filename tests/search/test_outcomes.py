"""Claims about the outcomes of trials, and about the points that a later start tries again."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import Status
from smt_ray.documents.search import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    TrialEntry,
    TrialResult,
    TrialStatus,
)
from smt_ray.search.outcomes import close_trials, read_trials, settle
from smt_ray.search.planned import PlannedSearch, plan_search
from smt_ray.search.trial_record import TrialRecord
from tests.search.searches import (
    FOLDER,
    KEY,
    POINTS,
    leave_interrupted,
    leave_trained,
    make_record,
    make_search,
)


@pytest.fixture
def search(tmp_path: Path) -> PlannedSearch:
    return plan_search(make_search(tmp_path))


def statuses(record: TrialRecord) -> list[TrialStatus]:
    return [entry.status for entry in record.entries]


def test_a_later_start_tries_failed_interrupted_and_new_points(
    search: PlannedSearch, tmp_path: Path
) -> None:
    leave_interrupted(search.config, POINTS[1], {2: 0.9})
    assert settle(search, make_record(tmp_path, FAILED, RUNNING)) == POINTS
    assert not TrialRecord(str(tmp_path), FOLDER).entries


def test_a_later_start_keeps_finished_and_stopped_trials(
    search: PlannedSearch, tmp_path: Path
) -> None:
    leave_trained(search.config, POINTS[0], {8: 0.5})
    leave_interrupted(search.config, POINTS[1], {2: 0.9})
    record = make_record(tmp_path, FINISHED, STOPPED, RUNNING)
    assert settle(search, record) == [POINTS[2]]
    assert statuses(record) == [FINISHED, STOPPED]


def test_a_trial_that_finished_while_the_search_was_killed_is_not_trained_again(
    search: PlannedSearch, tmp_path: Path
) -> None:
    leave_trained(search.config, POINTS[0], {8: 0.5})
    leave_trained(search.config, POINTS[1], {8: 0.6}, "RUNNING")
    record = make_record(tmp_path, RUNNING, RUNNING)
    assert settle(search, record) == POINTS[1:], "a run that did not end is tried again"
    assert statuses(record) == [FINISHED]


def test_a_finished_trial_whose_training_was_deleted_is_trained_again(
    search: PlannedSearch, tmp_path: Path
) -> None:
    assert settle(search, make_record(tmp_path, FINISHED)) == POINTS


def test_optuna_tries_only_interrupted_points_again(tmp_path: Path) -> None:
    space = {KEY: {"choice": [point[KEY] for point in POINTS]}}
    search = plan_search(make_search(tmp_path, algorithm="optuna", space=space))
    leave_trained(search.config, POINTS[0], {8: 0.5})
    assert settle(search, make_record(tmp_path, FINISHED, RUNNING)) == [POINTS[1]]


def test_trials_are_read_from_their_stages_with_the_best_one_first(
    search: PlannedSearch, tmp_path: Path
) -> None:
    leave_trained(search.config, POINTS[0], {2: 0.9, 8: 0.6})
    leave_trained(search.config, POINTS[1], {2: 0.8, 8: 0.5})
    leave_interrupted(search.config, POINTS[2], {2: 0.1})
    found = read_trials(search, make_record(tmp_path, FINISHED, FINISHED, STOPPED).entries)
    assert [(trial.point, trial.status, trial.loss) for trial in found] == [
        (POINTS[1], FINISHED, 0.5), (POINTS[0], FINISHED, 0.6), (POINTS[2], STOPPED, 0.1),
    ]  # fmt: skip
    assert found[0].history == [(2, 0.8), (8, 0.5)]
    assert (found[0].step, found[0].ended_ms) == (8, 8000)


def test_of_trials_with_the_same_run_the_finished_one_is_kept(search: PlannedSearch) -> None:
    leave_trained(search.config, POINTS[0], {8: 0.5})
    failed = TrialEntry(id="t0", point=POINTS[0], status=FAILED, error="first")
    finished = TrialEntry(id="t1", point=POINTS[0], status=FINISHED)
    (found,) = read_trials(search, [failed, finished])
    assert (found.status, found.loss) == (FINISHED, 0.5)


def test_a_point_that_is_no_valid_configuration_is_a_failed_trial(search: PlannedSearch) -> None:
    entry = TrialEntry(id="t0", point={KEY: -1.0}, status=FAILED)
    (found,) = read_trials(search, [entry])
    assert (found.run, found.status) == (None, FAILED)
    assert KEY in found.error


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
def test_the_run_of_a_trial_ends_with_its_status_and_the_tracker_is_told_once(
    search: PlannedSearch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trial: TrialStatus,
    run: Status,
    ends: Status | None,
) -> None:
    sent: list[str] = []
    monkeypatch.setattr("smt_ray.search.outcomes.log_run", lambda _, name: sent.append(name))
    name = leave_trained(search.config, POINTS[0], {8: 0.5}, run)
    folder = RunFolder(Storage(str(tmp_path)), name)
    for _ in range(2):
        result = TrialResult(run=name, point=POINTS[0], status=trial, ended_ms=5)
        close_trials(folder.storage, [result])
    manifest = folder.manifest()
    assert manifest.status == (ends or run)
    assert sent == ([name] if ends else [])
    assert ("trial" in manifest.tags) == (ends is not None)
    assert (manifest.ended_ms == 5) == (ends is not None)
