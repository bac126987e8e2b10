"""Claims about searches through Ray Tune: one warm-up, failed trials, interrupted searches."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from smt_ray.artifacts.layout import BEST_CONFIG, MANIFEST, SEARCH, TRIALS, search_folder
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import load_config, validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.documents.search import FAILED, FINISHED, SearchDocument, TrialList, TrialResult
from smt_ray.errors import UserError
from smt_ray.search.flow import search
from tests import processes
from tests.runs import ONE_WORKER, QUICK

RATES = [5e-3, 1e-3, 1e30]
"""Learning rates of the trials; the last one diverges."""
KEY = "training.learning_rate"
FOLDER = search_folder("mine")


def make(storage: Path, **changes: Any) -> dict[str, Any]:
    run: dict[str, Any] = copy.deepcopy(QUICK)
    del run["name"]
    run["storage"] = str(storage)
    run["training"] = {"max_steps": 8, "validate_every_steps": 4}
    run["resources"] = ONE_WORKER
    run["evaluation"] |= {"base": False, "base_likelihood": False}
    values = {"name": "mine", "run": run, "space": {KEY: {"grid_search": RATES}}}
    return {**values, "scheduler": "none", **changes}


def test_a_point_that_cannot_work_is_refused_by_name_before_anything_starts(tmp_path: Path) -> None:
    space = {"selection.block_size": {"grid_search": [16, 24]}}
    with pytest.raises(UserError, match=r"selection\.block_size.*24"):
        search(validate_section(SearchConfig, make(tmp_path, space=space)))
    space = {"selection.budget": {"choice": [2.0]}}
    with pytest.raises(UserError, match=r"space at {'selection\.budget': 2\.0}: selection\.budget"):
        search(validate_section(SearchConfig, make(tmp_path, space=space)))
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_does_not_fit_the_training_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    values = make(tmp_path, scheduler="asha")
    values["run"]["training"] = {"max_steps": 3, "validate_every_steps": 4}
    with pytest.raises(UserError, match=r"run\.training\.validate_every_steps.*got 4"):
        search(validate_section(SearchConfig, values))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    space = {"training.learning_rate": {"choice": [1e-3, 2e-3]}}
    values = make(tmp_path, space=space, algorithm="optuna")
    with pytest.raises(UserError, match=r"smt-ray\[optuna\]") as raised:
        search(validate_section(SearchConfig, values))
    assert (raised.value.field, raised.value.got) == ("algorithm", "optuna")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a search that was killed after its first trial, started again, terminated by
    SIGTERM, and started once more. Its paths are relative."""
    folder = tmp_path_factory.mktemp("searched")
    storage = folder / "kept"
    storage.mkdir()
    values = make(Path("kept"), max_concurrent_trials=1)
    (folder / "search.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "smt_ray", "tune", "search.yaml"]
    driver = processes.start(command, storage / "killed.log", folder=folder)
    try:
        _wait_until("trial 2 of 3", driver, storage / "killed.log")
        assert not (storage / FOLDER / SEARCH).exists()
    finally:
        processes.kill(driver)
    (finished,) = storage.glob(f"stages/training-*/{MANIFEST}")
    shutil.copy(finished, storage / "first_trial.json")
    driver = processes.start(command, storage / "interrupted.log", folder=folder)
    try:
        _wait_until("trial 2 of 3", driver, storage / "interrupted.log")
        os.kill(driver.pid, signal.SIGTERM)  # as batch systems stop a job
        (storage / "exit_code.txt").write_text(str(driver.wait(timeout=60)))
    finally:
        processes.kill(driver)
    again = processes.start(command, storage / "again.log", folder=folder)
    try:
        assert again.wait(timeout=400) == 0, (storage / "again.log").read_text()
    finally:
        processes.kill(again)
    return storage


def _wait_until(said: str, driver: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while said not in log.read_text():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def results(searched: Path) -> SearchDocument:
    return Storage(str(searched)).read_document(SearchDocument, f"{FOLDER}/{SEARCH}", fix="")


@pytest.fixture
def trials(results: SearchDocument) -> dict[Any, TrialResult]:
    """Learning rate -> its trial."""
    return {trial.point[KEY]: trial for trial in results.trials}


@pytest.mark.slow
def test_a_killed_search_resumes_and_keeps_its_finished_trials(
    searched: Path, trials: dict[Any, TrialResult]
) -> None:
    assert "resumed: 1 of 3 trials have ended" in (searched / "again.log").read_text()
    before = json.loads((searched / "first_trial.json").read_text())
    after = searched / "stages" / before["stage"] / MANIFEST
    assert json.loads(after.read_text()) == before, "trained once"
    assert {rate: trial.status for rate, trial in trials.items()} == {
        5e-3: FINISHED, 1e-3: FINISHED, 1e30: FAILED,
    }  # fmt: skip
    assert [step for step, _ in trials[1e-3].history] == [0, 4, 8], "0: the loss before training"


@pytest.mark.slow
def test_sigterm_ends_a_search_like_an_interrupt_and_says_how_to_resume(searched: Path) -> None:
    assert (searched / "exit_code.txt").read_text() == "130"
    assert (
        (searched / "interrupted.log")
        .read_text()
        .endswith("interrupted: the same command resumes from here\n")
    )


@pytest.mark.slow
def test_one_warm_up_serves_all_trials_of_all_starts(searched: Path) -> None:
    kinds = [path.name.partition("-")[0] for path in (searched / "stages").iterdir()]
    assert (kinds.count("tokens"), kinds.count("warmup")) == (1, 1)
    logs = [(searched / f"{name}.log").read_text() for name in ("killed", "interrupted", "again")]
    assert sum(log.count("warmup: done") for log in logs) == 1


@pytest.mark.slow
def test_a_trial_that_diverges_says_why_and_the_search_continues(
    trials: dict[Any, TrialResult],
) -> None:
    assert "must be finite" in trials[1e30].error


@pytest.mark.slow
def test_the_winner_has_the_lowest_loss_and_only_the_winner_was_evaluated(
    searched: Path, results: SearchDocument
) -> None:
    finished = [trial for trial in results.trials if trial.status == FINISHED]
    best = min(finished, key=lambda trial: trial.loss or math.inf)
    assert results.trials[0] == best
    assert results.winner.name == best.run
    assert set(results.winner.tasks) == {"tiny_commonsense", "tiny_arithmetic"}
    for trial in finished:
        assert trial.run
        stages = RunFolder(Storage(str(searched)), trial.run).manifest().stages
        assert any(key.startswith("evaluation") for key in stages) == (trial is best)
    run = load_config(searched / FOLDER / BEST_CONFIG)
    assert (run.name, run.training.learning_rate) == (best.run, best.point[KEY])


@pytest.mark.slow
def test_mlflow_shows_one_parent_with_a_child_for_each_trial(
    searched: Path, trials: dict[Any, TrialResult]
) -> None:
    from mlflow import MlflowClient

    from smt_ray.tracking.uris import resolve_tracking_uri

    client = MlflowClient(resolve_tracking_uri(None, str(searched)))
    (experiment,) = [e for e in client.search_experiments() if e.name == "smt_ray"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"mine (search)", *(trial.run for trial in trials.values())}
    parent = runs.pop("mine (search)")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/validation/loss"] == min(
        trial.loss for trial in trials.values() if trial.status == FINISHED
    )
    assert parent.data.metrics[f"best/{KEY}"] in RATES
    assert (parent.data.metrics["trials/finished"], parent.data.metrics["trials/failed"]) == (2, 1)
    assert "best/eval/average/tuned" in parent.data.metrics
    assert "the winner" in parent.data.tags["mlflow.note.content"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {BEST_CONFIG, "trials.csv", "trials.png", f"loss_over_{KEY}.png"} <= files
    for trial in trials.values():
        run = runs[trial.run]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert float(run.data.params[KEY]) == trial.point[KEY]
        assert run.info.status == ("FAILED" if trial.status == FAILED else "FINISHED")


@pytest.mark.slow
def test_another_search_with_the_same_name_is_refused(searched: Path) -> None:
    other = make(searched, space={KEY: {"grid_search": [1e-3]}})
    before = (searched / "mlflow.db").read_bytes()
    with pytest.raises(UserError, match="another search made"):
        search(validate_section(SearchConfig, other))
    assert (searched / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_optuna_resumes_after_a_kill_and_trains_a_point_that_it_draws_twice_once(
    tmp_path: Path,
) -> None:
    storage = tmp_path / "kept"
    once = {"num_samples": 2, "space": {KEY: {"choice": [5e-3]}}}
    values = make(storage, algorithm="optuna", **once)
    values["run"] |= {"method": "lora", "tracking": {"enabled": False}}
    values["run"]["evaluation"]["tasks"] = []
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "smt_ray", "tune", tmp_path / "search.yaml"]
    driver = processes.start(command, tmp_path / "killed.log")
    try:
        _wait_until("step 4, validation loss", driver, tmp_path / "killed.log")
    finally:
        processes.kill(driver)
    again = processes.start(command, tmp_path / "again.log")
    try:
        assert again.wait(timeout=240) == 0, (tmp_path / "again.log").read_text()
    finally:
        processes.kill(again)
    kept = Storage(str(storage))
    (trial,) = kept.read_document(SearchDocument, f"{FOLDER}/{SEARCH}", fix="").trials
    assert (trial.status, trial.point, trial.step) == (FINISHED, {KEY: 5e-3}, 8)
    entries = kept.read_document(TrialList, f"{FOLDER}/{TRIALS}", fix="").trials
    assert [entry.status for entry in entries] == [FINISHED, FINISHED]
    assert len(list(storage.glob("stages/training-*"))) == 1
