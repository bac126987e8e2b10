"""Claims about what Ray Tune is given, at the first start of a search and at a later one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.config.search import SearchConfig
from smt_ray.documents.search import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialEntry,
    TrialResult,
    TrialStatus,
)
from smt_ray.errors import UserError
from smt_ray.grid.folder import GroupFolder
from smt_ray.search import tuner as search_tuner
from smt_ray.search.planned import plan_search
from smt_ray.search.scheduling import make_scheduler, make_searcher
from smt_ray.search.trial import METRIC, POINT, STEP
from smt_ray.search.trial_record import TrialRecord
from tests.search.searches import FOLDER, KEY, POINTS, leave_trained, make_record, make_search

OPTUNA = {"algorithm": "optuna", "num_samples": 3, "space": {KEY: {"loguniform": [1e-4, 1e-1]}}}


class StubTuner:
    """Stands in for Ray Tune's Tuner; all its trials fail.

    Attributes:
        made: What the tuners were made of.
        skips_first: Whether the first trial never ends.
        root: The root of the storage.
    """

    made: ClassVar[list[dict[str, Any]]]
    skips_first: ClassVar[bool] = False
    root: ClassVar[str]

    def __init__(self, trainable: Any, **given: Any) -> None:
        self.made.append(given)

    def fit(self) -> None:
        """Writes down the trials."""
        grid = self.made[-1]["param_space"].get(POINT) or {"grid_search": []}
        record = TrialRecord(self.root, FOLDER)
        for i, point in enumerate(grid["grid_search"][self.skips_first :]):
            record.put(TrialEntry(id=f"now{i}", point=point, status=FAILED, error="stub"))


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[StubTuner]:
    """The stub, on a cluster of one node with two CPUs."""
    stub = type("Stub", (StubTuner,), {"made": [], "root": str(tmp_path)})
    monkeypatch.setattr(search_tuner.tune, "Tuner", stub)
    monkeypatch.setattr("smt_ray.grid.side_by_side.cluster_nodes", lambda: [{"CPU": 2.0}])
    return stub


def start(config: SearchConfig, storage: Path) -> list[TrialResult]:
    folder = GroupFolder(Storage(str(storage)), FOLDER)
    parent: Any = SimpleNamespace(folder=folder, run_id=None)
    return search_tuner.run_trials(plan_search(config), parent)


def statuses(trials: list[TrialResult]) -> list[TrialStatus]:
    return [trial.status for trial in trials]


def leave_killed(storage: Path) -> None:
    """Leaves a search that was killed during its second trial, while Tune wrote a snapshot."""
    leave_trained(make_search(storage), POINTS[0], {2: 0.9, 8: 0.5})
    make_record(storage, FINISHED)
    Storage(str(storage)).write_bytes(f"{FOLDER}/tune/tuner.pkl", b"half of a pickle")


def test_a_killed_search_resumes_with_the_points_that_are_left(
    tmp_path: Path, tuner: type[StubTuner], capsys: pytest.CaptureFixture[str]
) -> None:
    leave_killed(tmp_path)
    trials = start(make_search(tmp_path), tmp_path)
    assert tuner.made[0]["param_space"] == {POINT: {"grid_search": POINTS[1:]}}
    assert statuses(trials) == [FINISHED, FAILED, FAILED]
    assert "resumed: 1 of 3 trials have ended" in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_later_start_may_run_another_number_of_trials_at_a_time(
    tmp_path: Path, tuner: type[StubTuner], at_once: int
) -> None:
    leave_killed(tmp_path)
    start(make_search(tmp_path, max_concurrent_trials=at_once), tmp_path)
    assert tuner.made[0]["tune_config"].max_concurrent_trials == at_once


def test_a_search_whose_trials_are_all_finished_starts_none(
    tmp_path: Path, tuner: type[StubTuner]
) -> None:
    config = make_search(tmp_path)
    for point in POINTS:
        leave_trained(config, point, {8: 0.5})
    assert statuses(start(config, tmp_path)) == [FINISHED] * 3
    assert not tuner.made


def test_a_trial_that_did_not_end_is_an_error(tmp_path: Path, tuner: type[StubTuner]) -> None:
    tuner.skips_first = True
    with pytest.raises(UserError, match="all 3 trials must end; got 2"):
        start(make_search(tmp_path), tmp_path)


def test_the_scheduler_compares_trials_with_those_of_an_earlier_start(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    runs = [config.make_run(point) for point in POINTS]
    good = TrialResult(run="good", point=POINTS[0], status=STOPPED, history=[(2, 0.1), (4, 0.05)])

    def decision(done: list[TrialResult]) -> str:
        scheduler = make_scheduler(config, runs, done)
        trial: Any = SimpleNamespace(trial_id="new")
        scheduler.on_trial_add(None, trial)
        return str(scheduler.on_trial_result(None, trial, {STEP: 2, METRIC: 0.9}))

    assert decision([]) == "CONTINUE"
    assert decision([good]) == "STOP"


def test_optuna_first_repeats_interrupted_points_and_then_draws_new_ones(tmp_path: Path) -> None:
    config = make_search(tmp_path, **OPTUNA)
    first = make_searcher(config)
    drawn = [first.suggest(f"t{i}") for i in range(3)]
    done = [TrialResult(point=drawn[0], status=FINISHED, loss=0.5)]
    later = make_searcher(config, drawn[1:2], done)
    assert later.suggest("u1") == drawn[1]
    assert later.suggest("u2") not in drawn


def test_optuna_draws_only_the_points_that_are_left(tmp_path: Path, tuner: type[StubTuner]) -> None:
    leave_killed(tmp_path)
    with pytest.raises(UserError, match="must end"):
        start(make_search(tmp_path, **OPTUNA), tmp_path)
    assert tuner.made[0]["tune_config"].num_samples == 2
