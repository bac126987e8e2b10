"""Claims about runs that are cut off: killed ranks, killed drivers, diverging losses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from smt_ray.cli import exit_with
from smt_ray.config.load import to_yaml
from smt_ray.config.run import RunConfig
from smt_ray.tracking.records import parse_records
from tests import processes

pytestmark = pytest.mark.slow

BEFORE_TRAINING = ("tokens", "warmup", "selection")
NUM_STEPS = 40
KILL_AT = 10  # the step of a checkpoint in progress; the one before it is complete

Quick = Callable[..., RunConfig]


def wait_for_checkpoint(
    folder: Path, alive: Callable[[], bool] = lambda: True, step: int = KILL_AT
) -> None:
    """Waits until a training begins to write the checkpoint of a step."""
    deadline = time.monotonic() + 240
    while not any(int(p.name.split("-")[1]) >= step for p in folder.glob("step-*")):
        assert alive(), "the run ended too early"
        assert time.monotonic() < deadline, f"no checkpoint in {folder}"
        time.sleep(0.02)


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({r["step"] for r in records}) == len(records)
    return {r["step"]: r["metrics"]["train/loss"] for r in records if r["step"]}


@dataclass(frozen=True)
class CutOff:
    """A run that was interrupted during training and resumed, and whose driver was then killed.

    Attributes:
        interrupted: The exit code, last line and status of the interrupted driver.
        storage: The storage of the run.
        copy: A copy of the storage, to resume the run in another way.
        stage: The name of the training stage.
    """

    interrupted: tuple[int, str, str]
    storage: Path
    copy: Path
    stage: str


@pytest.fixture(scope="module")
def cut_off(whole: Any, quick: Quick, tmp_path_factory: pytest.TempPathFactory) -> CutOff:
    """Interrupts a driver that has its own cluster; resumes it and kills all its processes."""
    storage, name = tmp_path_factory.mktemp("cut_off"), whole.stage("training").name
    for kind in BEFORE_TRAINING:
        shutil.copytree(whole.stage(kind), storage / "stages" / whole.stage(kind).name)
    (storage / "run.yaml").write_text(to_yaml(quick(storage)))
    command = [sys.executable, "-m", "smt_ray", "run", storage / "run.yaml", "--until", "training"]
    checkpoints, log = storage / "stages" / name / "checkpoints", storage / "driver.log"
    manifest = storage / "runs/quick/run.json"
    driver = processes.start(command, log)
    try:
        wait_for_checkpoint(checkpoints, alive=lambda: driver.poll() is None, step=1)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        code = driver.wait(timeout=90)
    finally:
        processes.kill(driver)
    status = json.loads(manifest.read_text())["status"]
    interrupted = (code, log.read_text().splitlines()[-1], status)
    reached = max(int(path.name.split("-")[1]) for path in checkpoints.glob("step-*"))
    driver = processes.start(command, log)
    try:
        wait_for_checkpoint(checkpoints, alive=lambda: driver.poll() is None, step=reached + 1)
    finally:
        # Its workers too: they would continue for seconds until they notice that it is gone.
        processes.kill(driver)
    assert not (storage / "stages" / name / "manifest.json").exists()
    assert json.loads(manifest.read_text())["status"] == "RUNNING"
    copy = storage.with_name(f"{storage.name}-copy")
    shutil.copytree(storage, copy)
    return CutOff(interrupted, storage, copy, name)


def test_an_interrupt_in_training_ends_the_run_as_killed_and_says_how_to_resume(
    cut_off: CutOff,
) -> None:
    assert cut_off.interrupted == (
        130, "interrupted: the same command resumes from here", "KILLED",
    )  # fmt: skip


def test_a_killed_and_restarted_driver_ends_with_the_same_adapter(
    whole: Any, cluster: None, cut_off: CutOff, quick: Quick
) -> None:
    from mlflow import MlflowClient

    from smt_ray.run import flow
    from smt_ray.tracking.uris import resolve_tracking_uri

    client = MlflowClient(resolve_tracking_uri(None, str(cut_off.storage)))
    (experiment,) = [e for e in client.search_experiments() if e.name == "smt_ray"]
    (before,) = client.search_runs([experiment.experiment_id])
    assert before.info.status == "RUNNING"

    flow.run(quick(cut_off.storage), "training")

    folder = cut_off.storage / "stages" / cut_off.stage
    outcome = json.loads((folder / "manifest.json").read_text())["summary"]["outcome"]
    assert 0 < outcome["resumed_from"] < NUM_STEPS
    assert {p.name: p.read_bytes() for p in (folder / "adapter").iterdir()} == whole.adapter
    assert losses(folder) == losses(whole.stage("training"))
    (after,) = client.search_runs([experiment.experiment_id])
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    history = client.get_metric_history(after.info.run_id, "train/loss")
    assert {point.step for point in history} == set(range(1, NUM_STEPS + 1))


def test_a_run_resumes_with_another_number_of_ranks(
    whole: Any, cluster: None, cut_off: CutOff, quick: Quick
) -> None:
    from smt_ray.run import flow

    flow.run(quick(cut_off.copy, "resources.num_workers=1"), "training")
    folder = cut_off.copy / "stages" / cut_off.stage
    outcome = json.loads((folder / "manifest.json").read_text())["summary"]["outcome"]
    assert outcome["num_ranks"] == 1
    assert 0 < outcome["resumed_from"] < NUM_STEPS
    expected, found = losses(whole.stage("training")), losses(folder)
    assert found == pytest.approx(expected, rel=1e-3)
    ours, theirs = (
        load_file(place / "adapter" / "adapter_model.safetensors")
        for place in (folder, whole.stage("training"))
    )
    blocks = [key for key in theirs if key.endswith("blocks")]
    assert blocks
    for key in blocks:
        assert (ours[key] - theirs[key]).norm() < 1e-2 * theirs[key].norm(), key


def test_a_diverging_loss_ends_the_run_at_once_and_keeps_the_last_checkpoint(
    cluster: None, stages_of: Callable[[Sequence[str]], Path], quick: Quick,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import ray
    from mlflow import MlflowClient

    from smt_ray.run.flow import Flow
    from smt_ray.tracking.uris import resolve_tracking_uri
    from smt_ray.training.state import load_state

    flow = Flow(
        quick(
            stages_of(BEFORE_TRAINING),
            "training.learning_rate=1e30",
            "training.checkpoint_every_steps=1",
            "resources.num_workers=1",
        )
    )
    with pytest.raises(SystemExit) as stop:
        exit_with(lambda: flow.run("training"))
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    (line,) = [text for text in said if text.startswith("error:")]
    assert "the loss of step 2 must be finite (rows [" in line
    assert "Traceback" not in "\n".join(said)
    pids = ray.get(flow.board.starts.remote("training"))[0]
    assert len(pids) == 1
    state, num_steps = load_state(Path(flow.plan.training.uri) / "checkpoints/step-0000001")
    assert num_steps == 1
    assert state
    assert losses(Path(flow.plan.training.uri)).keys() == {1}
    manifest = flow.folder.manifest()
    assert manifest.status == "FAILED"
    assert "training" not in manifest.stages
    assert not flow.plan.training.is_done()
    client = MlflowClient(resolve_tracking_uri(None, flow.storage.root))
    assert client.get_run(manifest.tracked["mlflow"]).info.status == "FAILED"


def test_the_best_adapter_is_that_of_a_training_that_ends_at_the_best_step(
    whole: Any, cluster: None, quick: Callable[..., RunConfig]
) -> None:
    """The loss jumps at this learning rate, which is constant: a shorter training is a part."""
    from smt_ray.run.flow import Flow

    common = ("training.learning_rate=2", "training.lr_schedule=constant", "method=lora")
    every = ("training.validate_every_steps=1", "training.checkpoint_every_steps=1")
    longer = Flow(quick(whole.storage, "name=longer", "training.max_steps=2", *common, *every))
    longer.run("training")
    folder = Path(longer.plan.training.uri)
    records = parse_records((folder / "metrics.jsonl").read_text())
    losses = {r["step"]: r["metrics"]["validation/loss"] for r in records if r["step"]}
    best = min(losses, key=lambda step: losses[step])
    assert best < 2
    shorter = Flow(quick(whole.storage, "name=shorter", f"training.max_steps={best}", *common))
    shorter.run("training")
    weights = "adapter_model.safetensors"
    expected = Path(shorter.plan.training.uri) / "adapter" / weights
    assert (folder / "adapter_best" / weights).read_bytes() == expected.read_bytes()
