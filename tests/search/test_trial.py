"""Claims about what a trial does in Ray Tune's process for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.run.flow import Flow
from smt_ray.search import trial
from smt_ray.stages.plan import read_rows

SEARCH: dict[str, Any] = {
    "name": "mine",
    "run": {
        "storage": "kept",
        "model": {"builtin": "tiny"},
        "data": {"dir": "data", "train": ["train.json"], "validation_rows": 2},
        "training": {"max_steps": 4, "validate_every_steps": 2},
    },
    "space": {"training.learning_rate": {"choice": [0.1, 0.2]}},
}
RESULT = {"training": {"num_steps": 4, trial.METRIC: 0.5}}
POINT = {"training.learning_rate": 0.1}


class StubFlow:
    """Notes where a run would keep its stages, and reads its rows."""

    seen: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: RunConfig, *of_tune: Any) -> None:
        training, validation = read_rows(config)
        self.seen |= {
            "storage": Storage(config.storage).root,
            "rows": len(training) + len(validation),
        }

    def run(self, until: str) -> dict[str, Any]:
        """As a finished training."""
        return RESULT


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trials report, in a process of which Tune has only the folder changed."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(trial, "Flow", StubFlow)
    monkeypatch.setattr(trial, "ReportOnTheWay", object)
    monkeypatch.setattr(trial.tune, "report", found.append)
    return found


def make_folder(place: Path) -> Path:
    (place / "data").mkdir(parents=True)
    rows = [{"instruction": str(i), "output": "yes", "answer": "yes"} for i in range(6)]
    (place / "data" / "train.json").write_text(json.dumps(rows))
    return place


def test_a_trials_relative_paths_are_relative_to_where_the_search_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[dict[str, Any]]
) -> None:
    started = make_folder(tmp_path / "started")
    (tmp_path / "of_the_trial").mkdir()
    monkeypatch.chdir(tmp_path / "of_the_trial")
    trial.run_trial(SEARCH, POINT, None, str(started))
    assert StubFlow.seen == {"storage": str(started / "kept"), "rows": 6}
    assert reported[0][trial.METRIC] == 0.5


def test_a_node_without_that_folder_goes_by_the_processs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[dict[str, Any]]
) -> None:
    own = make_folder(tmp_path / "own")
    (tmp_path / "of_the_trial").mkdir()
    monkeypatch.chdir(tmp_path / "of_the_trial")
    monkeypatch.setenv("TUNE_ORIG_WORKING_DIR", str(own))
    trial.run_trial(SEARCH, POINT, None, str(tmp_path / "elsewhere"))
    assert StubFlow.seen == {"storage": str(own / "kept"), "rows": 6}


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Turns that trials take, and what they make in them, of which nothing is computed."""
    found: list[str] = []

    @contextmanager
    def turn(name: str) -> Iterator[None]:
        found.append(f"turn at {name.partition('-')[0]}")
        yield
        found.append(f"end of {name.partition('-')[0]}")

    def run(flow: Flow, until: str) -> dict[str, Any]:
        found.append(f"makes {until}")
        flow.plan.stages[until].publish([], {}, 0.0)
        return RESULT

    monkeypatch.setattr(trial, "turn", turn)
    monkeypatch.setattr(trial, "ReportOnTheWay", object)
    monkeypatch.setattr(trial.tune, "report", lambda metrics: None)
    monkeypatch.setattr(Flow, "run", run)
    return found


def test_a_trial_of_optuna_makes_in_turn_what_others_may_need(
    tmp_path: Path, happened: list[str]
) -> None:
    folder = str(make_folder(tmp_path / "started"))
    values = {**SEARCH, "algorithm": "optuna"}
    trial.run_trial(values, POINT, None, folder)
    assert happened == [
        "turn at training",
        "turn at warmup", "makes warmup", "end of warmup",
        "turn at selection", "makes selection", "end of selection",
        "makes training", "end of training",
    ]  # fmt: skip
    happened.clear()
    trial.run_trial(values, {"training.learning_rate": 0.2}, None, folder)
    assert happened == ["turn at training", "makes training", "end of training"]


def test_a_trial_whose_point_none_other_has_takes_no_turn(
    tmp_path: Path, happened: list[str]
) -> None:
    trial.run_trial(SEARCH, POINT, None, str(make_folder(tmp_path / "started")))
    assert happened == ["makes training"]
