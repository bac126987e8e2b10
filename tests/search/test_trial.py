"""Claims about a trial in the process that Ray Tune starts for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.documents.run import RunMetrics
from smt_ray.documents.search import Point
from smt_ray.documents.stages import Until
from smt_ray.run.flow import Flow
from smt_ray.search import trial
from smt_ray.search.trial import METRIC, STEP, TRAINED, TrialJob
from tests.finished_runs import Content, finish_run

POINT: Point = {"training.learning_rate": 0.1}


def make_job(folder: Path, **changes: Any) -> TrialJob:
    values = {
        "name": "mine",
        "run": {
            "storage": "kept",
            "model": {"builtin": "tiny"},
            "data": {"dir": "data", "train": ["train.json"], "validation_rows": 2},
            "training": {"max_steps": 4, "validate_every_steps": 2},
        },
        "space": {"training.learning_rate": {"choice": [0.1, 0.2]}},
    }
    config = validate_section(SearchConfig, {**values, **changes})
    job: TrialJob = cloudpickle.loads(cloudpickle.dumps(TrialJob(config, None, str(folder))))
    assert job == TrialJob(config, None, str(folder)), "a job reaches another process unchanged"
    return job


def make_folder(place: Path) -> Path:
    (place / "data").mkdir(parents=True)
    rows = [{"instruction": str(i), "output": "yes", "answer": "yes"} for i in range(6)]
    (place / "data" / "train.json").write_text(json.dumps(rows))
    return place


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The turns that a trial takes and the runs that it makes; nothing is computed."""
    found: list[str] = []

    @contextmanager
    def turn(name: str) -> Iterator[None]:
        found.append(f"turn at {name.partition('-')[0]}")
        yield
        found.append(f"end of {name.partition('-')[0]}")

    def run(flow: Flow, until: Until) -> RunMetrics:
        found.append(f"makes {until}{' in turns' if flow.in_turns else ''}")
        return finish_run(flow.config, until, Content(losses={4: 0.5}))

    monkeypatch.setattr(trial, "turn", turn)
    monkeypatch.setattr(trial, "ReportDuringTraining", object)
    monkeypatch.setattr(Flow, "run", run)
    return found


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch, events: list[str]) -> list[dict[str, Any]]:
    """The reports of trials to Tune."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(trial.tune, "report", found.append)
    return found


def trained_in(folder: Path) -> int:
    """The number of trainings in a folder's storage."""
    return len(list((folder / "kept" / "stages").glob("training-*/manifest.json")))


def test_relative_paths_start_from_the_folder_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[dict[str, Any]]
) -> None:
    started = make_folder(tmp_path / "started")
    (tmp_path / "of_the_trial").mkdir()
    monkeypatch.chdir(tmp_path / "of_the_trial")
    trial.run_trial(make_job(started), POINT)
    assert trained_in(started) == 1
    assert reported == [{STEP: 4, METRIC: 0.5, TRAINED: True}]


def test_without_that_folder_they_start_from_the_first_folder_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: list[dict[str, Any]]
) -> None:
    own = make_folder(tmp_path / "own")
    (tmp_path / "of_the_trial").mkdir()
    monkeypatch.chdir(tmp_path / "of_the_trial")
    monkeypatch.setenv("TUNE_ORIG_WORKING_DIR", str(own))
    trial.run_trial(make_job(tmp_path / "elsewhere"), POINT)
    assert trained_in(own) == 1


def test_a_trial_waits_for_another_one_of_the_same_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[str],
    reported: list[dict[str, Any]],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    trial.run_trial(make_job(make_folder(tmp_path / "started")), POINT)
    assert events == ["turn at run", "makes training in turns", "end of run"]
