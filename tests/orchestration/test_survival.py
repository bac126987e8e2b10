"""Claims about runs that are cut off: killed ranks, killed drivers, losses that diverge."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from smt_ray.cli import exit_with
from smt_ray.config.run import RunConfig

pytestmark = pytest.mark.slow

BEFORE_TRAINING = ("tokens", "warmup", "selection")
NUM_STEPS = 60
KILL_AT = "step-0000010"  # its checkpoint is being kept: the one before surely is

Quick = Callable[..., RunConfig]


def wait_for(what: Path, alive: Callable[[], bool] = lambda: True, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not what.exists():
        assert alive(), "it ended before"
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def processes_below(group: int) -> list[int]:
    """Processes of a group that are still there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        state, parent_group, session = fields[0], int(fields[2]), int(fields[3])
        if group in (parent_group, session) and state != "Z":
            found.append(int(folder.name))
    return found


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({r["step"] for r in records}) == len(records)
    return {r["step"]: r["metrics"]["train/loss"] for r in records}


def test_a_rank_that_is_killed_ends_with_the_undisturbed_adapter(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Quick
) -> None:
    import ray

    from smt_ray.orchestration.flow import Flow

    flow, killed = Flow(quick(stages_of(BEFORE_TRAINING))), []

    def kill() -> None:
        wait_for(flow.plan.trained.fetch("checkpoints") / KILL_AT)
        killed.append(ray.get(flow.board.starts.remote("training"))[0][0])
        os.kill(killed[0], signal.SIGKILL)

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    flow.run("training")
    watcher.join(timeout=5)
    pids = ray.get(flow.board.starts.remote("training"))[0]
    assert killed == pids[:1]
    assert len(pids) == 2
    manifest = flow.plan.trained.manifest()
    assert manifest is not None
    assert 0 < manifest["summary"]["resumed_from"] < NUM_STEPS
    folder = flow.plan.trained.fetch("")
    assert {p.name: p.read_bytes() for p in (folder / "adapter").iterdir()} == whole.adapter
    assert losses(folder) == losses(whole.stage("training"))


@pytest.fixture(scope="module")
def cut_off(whole: Any, quick: Quick, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A storage whose driver was killed in mid-training, and the training stage's name."""
    storage = tmp_path_factory.mktemp("cut_off")
    for kind in BEFORE_TRAINING:
        shutil.copytree(whole.stage(kind), storage / "stages" / whole.stage(kind).name)
    name = whole.stage("training").name
    overrides = [f"{key}={value}" for key, value in as_overrides(quick(storage)).items()]
    with (storage / "driver.log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-m", "smt_ray", "run", *overrides, "--until", "training"],
            stdout=log, stderr=log, start_new_session=True, env=alone(),
        )  # fmt: skip
    try:
        checkpoints = storage / "stages" / name / "checkpoints"
        wait_for(checkpoints / KILL_AT, alive=lambda: driver.poll() is None)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
    assert not (storage / "stages" / name / "manifest.json").exists()
    assert json.loads((storage / "runs/quick/run.json").read_text())["status"] == "RUNNING"
    deadline = time.monotonic() + 60
    while (left := processes_below(driver.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "processes outlived their driver"
    return storage, name


def as_overrides(config: RunConfig) -> dict[str, str]:
    """What makes the quickstart this config."""
    quickstart = json.dumps(config.model_dump(mode="json"))
    return {key: json.dumps(value) for key, value in json.loads(quickstart).items()}


def alone() -> dict[str, str]:
    """An environment that leads to no cluster but a new one."""
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"}


def test_a_driver_that_is_killed_and_started_again_ends_with_the_undisturbed_adapter(
    whole: Any, cluster: None, cut_off: tuple[Path, str], quick: Quick, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    from smt_ray.orchestration import flow
    from smt_ray.tracking.uris import resolve_tracking_uri

    storage, name = cut_off
    untouched = tmp_path / "storage"
    shutil.copytree(storage, untouched)  # for the next test
    shutil.move(untouched, storage.with_name("untouched"))
    client = MlflowClient(resolve_tracking_uri(None, str(storage)))
    (experiment,) = [e for e in client.search_experiments() if e.name == "smt_ray"]
    (before,) = client.search_runs([experiment.experiment_id])
    assert before.info.status == "RUNNING"

    flow.run(quick(storage), "training")

    folder = storage / "stages" / name
    summary = json.loads((folder / "manifest.json").read_text())["summary"]
    assert 0 < summary["resumed_from"] < NUM_STEPS
    assert {p.name: p.read_bytes() for p in (folder / "adapter").iterdir()} == whole.adapter
    assert losses(folder) == losses(whole.stage("training"))
    (after,) = client.search_runs([experiment.experiment_id])
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    history = client.get_metric_history(after.info.run_id, "train/loss")
    assert {point.step for point in history} == set(range(1, NUM_STEPS + 1))


def test_a_run_goes_on_with_another_number_of_ranks(
    whole: Any, cluster: None, cut_off: tuple[Path, str], quick: Quick
) -> None:
    from smt_ray.orchestration import flow

    storage, name = cut_off
    untouched = storage.with_name("untouched")
    config = quick(untouched if untouched.exists() else storage, "resources.num_workers=1")
    flow.run(config, "training")
    folder = Path(config.storage) / "stages" / name
    summary = json.loads((folder / "manifest.json").read_text())["summary"]
    assert summary["num_ranks"] == 1
    assert 0 < summary["resumed_from"] < NUM_STEPS
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


def test_a_loss_that_diverges_ends_the_run_at_once_and_leaves_the_last_checkpoint(
    cluster: None, stages_of: Callable[[Sequence[str]], Path], quick: Quick,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import ray
    from mlflow import MlflowClient

    from smt_ray.orchestration.flow import Flow
    from smt_ray.tracking.uris import resolve_tracking_uri
    from smt_ray.training.state import load_state

    flow = Flow(
        quick(
            stages_of(BEFORE_TRAINING),
            "training.learning_rate=1e30",
            "training.checkpoint_every_steps=1",
        )
    )
    with pytest.raises(SystemExit) as stop:
        exit_with(lambda: flow.run("training"))
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    (line,) = [text for text in said if text.startswith("error:")]
    assert "the loss of step 2 must be finite (training rows [" in line
    assert "Traceback" not in "\n".join(said)
    pids = ray.get(flow.board.starts.remote("training"))[0]
    assert len(pids) == 1
    state, num_steps = load_state(flow.plan.trained.fetch("checkpoints") / "step-0000001")
    assert num_steps == 1
    assert state
    assert losses(flow.plan.trained.fetch("")).keys() == {1}
    manifest = flow.folder.manifest()
    assert manifest["status"] == "FAILED"
    assert "training" not in manifest["stages"]
    assert flow.plan.trained.manifest() is None
    client = MlflowClient(resolve_tracking_uri(None, flow.storage.root))
    assert client.get_run(manifest["mlflow_run_id"]).info.status == "FAILED"
