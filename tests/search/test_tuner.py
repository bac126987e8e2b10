"""Claims about what is handed to Ray Tune, at a search's first start and at a later one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.search import tuner as search_tuner
from smt_ray.search.trial import METRIC, STEP
from smt_ray.search.trial_record import FAILED, FINISHED, TrialRecord, make_entry
from tests.search.searches import KEY, RATES, leave_run, make_search

POINTS = [{KEY: rate} for rate in RATES]
FOLDER = "searches/mine"
DRAWN = {"algorithm": "optuna", "num_samples": 3, "space": {KEY: {"loguniform": [1e-4, 1e-1]}}}


class StubTuner:
    """Notes what it is made of; all its trials end, failed."""

    made: list[dict[str, Any]]
    ends: bool

    def __init__(self, trainable: Any, **given: Any) -> None:
        self.made.append(given)

    def fit(self) -> None:
        """Writes down as many trials as there are to be."""
        given = self.made[-1]
        points = (given["param_space"].get("point") or {"grid_search": []})["grid_search"]
        record = TrialRecord(*self.place)
        for i, point in enumerate(points if self.ends else points[1:]):
            record.put(make_entry(f"now{i}", point, FAILED, "stub"))

    place: tuple[str, str]


@pytest.fixture
def tuner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[StubTuner]:
    """In Ray Tune's stead, on a node of two CPUs."""
    made = type("Stub", (StubTuner,), {"made": [], "ends": True, "place": (str(tmp_path), FOLDER)})
    monkeypatch.setattr(search_tuner.tune, "Tuner", made)
    monkeypatch.setattr(search_tuner, "cluster_nodes", lambda: [{"CPU": 2.0}])
    return made


def start(config: SearchConfig, storage: Path) -> list[dict[str, Any]]:
    runs = [config.make_run(point) for point in POINTS]
    parent: Any = SimpleNamespace(storage=Storage(str(storage)), folder=FOLDER, run_id=None)
    return search_tuner.run_trials(config, POINTS, runs, parent)


def killed(storage: Path) -> None:
    """What a search leaves that was killed in its second trial, before Tune's first snapshot."""
    leave_run(make_search(storage), POINTS[0], {2: 0.9, 8: 0.5})
    TrialRecord(str(storage), FOLDER).put(make_entry("t0", POINTS[0], FINISHED))
    Storage(str(storage)).write_bytes(f"{FOLDER}/tune/tuner.pkl", b"half of a pickle")


def test_a_search_that_was_killed_goes_on_with_the_points_that_are_left(
    tmp_path: Path, tuner: type[StubTuner]
) -> None:
    killed(tmp_path)
    trials = start(make_search(tmp_path), tmp_path)
    assert tuner.made[0]["param_space"] == {"point": {"grid_search": POINTS[1:]}}
    assert [trial["status"] for trial in trials] == [FINISHED, FAILED, FAILED]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_later_start_has_its_own_number_of_trials_at_a_time(
    tmp_path: Path, tuner: type[StubTuner], at_once: int
) -> None:
    killed(tmp_path)
    start(make_search(tmp_path, max_concurrent_trials=at_once), tmp_path)
    assert tuner.made[0]["tune_config"].max_concurrent_trials == at_once


def test_a_search_whose_trials_are_all_done_starts_none(
    tmp_path: Path, tuner: type[StubTuner]
) -> None:
    config = make_search(tmp_path)
    for point in POINTS:
        leave_run(config, point, {8: 0.5})
    assert [trial["status"] for trial in start(config, tmp_path)] == [FINISHED] * 3
    assert not tuner.made


def test_a_point_that_ray_tune_never_came_to_is_an_error(
    tmp_path: Path, tuner: type[StubTuner]
) -> None:
    tuner.ends = False
    with pytest.raises(UserError, match="all 3 trials must come to an end; got 2"):
        start(make_search(tmp_path), tmp_path)


def test_the_scheduler_goes_by_the_losses_of_an_earlier_start(tmp_path: Path) -> None:
    config = make_search(tmp_path)
    runs = [config.make_run(point) for point in POINTS]
    good = {"run": "good", "history": [(2, 0.1), (4, 0.05)]}

    def decision(done: list[dict[str, Any]]) -> str:
        scheduler = search_tuner.make_scheduler(config, runs, done)
        trial: Any = SimpleNamespace(trial_id="new")
        scheduler.on_trial_add(None, trial)
        return str(scheduler.on_trial_result(None, trial, {STEP: 2, METRIC: 0.9}))

    assert decision([]) == "CONTINUE"
    assert decision([good]) == "STOP"


def test_optuna_draws_first_what_it_had_drawn_and_then_other_points_than_before(
    tmp_path: Path,
) -> None:
    config = make_search(tmp_path, **DRAWN)
    first = search_tuner.make_searcher(config)
    drawn = [first.suggest(f"t{i}") for i in range(3)]
    done = [{"point": drawn[0], "loss": 0.5}]
    later = search_tuner.make_searcher(config, drawn[1:2], done)
    assert later.suggest("u1") == drawn[1]
    assert later.suggest("u2") not in drawn


def test_optuna_draws_as_many_as_are_left(tmp_path: Path, tuner: type[StubTuner]) -> None:
    killed(tmp_path)
    with pytest.raises(UserError, match="come to an end"):
        start(make_search(tmp_path, **DRAWN), tmp_path)
    assert tuner.made[0]["tune_config"].num_samples == 2
