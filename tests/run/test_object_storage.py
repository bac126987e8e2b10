"""Claims about a run whose storage is a bucket: it is killed, resumed, and read by commands.

Its environment has secrets, which no log, artifact or MLflow entry may contain.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import to_yaml
from smt_ray.config.run import RunConfig
from tests import processes
from tests.object_store import BUCKET, s3_server

pytestmark = pytest.mark.slow

ROOT = f"s3://{BUCKET}/runs"
KILL_AT = 10  # the step of a checkpoint; the one before it is complete
TASKS = ["tiny_commonsense", "tiny_arithmetic"]  # the run has evaluated them
CANARY = "canary7f3a9c"
SECRETS = {
    "HF_TOKEN": f"hf_{CANARY}",
    "AWS_SECRET_ACCESS_KEY": f"aws_{CANARY}",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": f"mlflow_{CANARY}",
}


@dataclass(frozen=True)
class BucketRun:
    """A run in a bucket that was killed during training and then resumed to its end.

    Attributes:
        storage: The bucket.
        logs: The logs of its two drivers.
        scratch: The temporary directory of the drivers.
        ray: The temporary directory of Ray, with all its logs.
        tracking: The folder of MLflow's database and artifacts.
    """

    storage: Storage
    logs: list[Path]
    scratch: Path
    ray: Path
    tracking: Path

    def stage(self, kind: str) -> Stage:
        """A finished stage."""
        stages = RunFolder.open(self.storage, "quick").manifest().stages
        return Stage.open(self.storage, stages[kind].stage)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short name, because Ray puts sockets below it."""
    path = Path(tempfile.mkdtemp(prefix="smt", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(whole: Any, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of the run's drivers; the bucket's variables are set in this process too."""
    places = {"TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": str(folder / "ray")}
    for place in places.values():
        Path(place).mkdir()
    with s3_server() as addresses, pytest.MonkeyPatch.context() as patch:
        for name, value in addresses.items():
            patch.setenv(name, value)
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        yield inherited | addresses | SECRETS | places


@pytest.fixture(scope="module")
def bucket_run(
    environment: dict[str, str], folder: Path, quick: Callable[..., RunConfig]
) -> BucketRun:
    tracking = folder / "mlflow"
    config = quick(ROOT, f"tracking.uri=sqlite:///{tracking}/mlflow.db")  # type: ignore[arg-type]
    (folder / "run.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "smt_ray", "run", folder / "run.yaml"]
    storage, logs = Storage(ROOT), [folder / "first.log", folder / "second.log"]
    driver = processes.start(command, logs[0], environment)
    try:
        _wait_for_checkpoint(storage, driver, logs[0])
    finally:
        processes.kill(driver)
    assert RunFolder.open(storage, "quick").manifest().status == "RUNNING"
    driver = processes.start(command, logs[1], environment)
    try:
        assert driver.wait(timeout=400) == 0, logs[1].read_text()
    finally:
        processes.kill(driver)
    return BucketRun(storage, logs, folder / "tmp", folder / "ray", tracking)


def _wait_for_checkpoint(storage: Storage, driver: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while not any(
        int(place.rpartition("step-")[2].partition("/")[0]) >= KILL_AT
        for place in storage.list_files("stages")
        if "/checkpoints/step-" in place
    ):
        assert driver.poll() is None, f"ended with {driver.returncode}: {log.read_text()}"
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.1)


def test_a_killed_run_resumes_from_the_bucket_and_ends_with_the_same_adapter(
    whole: Any, bucket_run: BucketRun
) -> None:
    training = bucket_run.stage("training")
    summary = training.read().summary
    assert 0 < summary.outcome.resumed_from < summary.num_steps
    with training.storage.local(training.path("adapter")) as adapter:
        assert {p.name: p.read_bytes() for p in adapter.iterdir()} == whole.adapter


def test_all_files_of_a_run_are_in_the_bucket(whole: Any, bucket_run: BucketRun) -> None:
    ours = {file for file in bucket_run.storage.list_files("") if "/checkpoints/" not in file}
    (mark,) = {file for file in ours if file.startswith("in_use/")}  # the killed driver's
    ours -= {mark}
    # Other tests make runs of their own in that storage.
    manifest = RunFolder.open(Storage(str(whole.storage)), "quick").manifest()
    places = ["runs/quick", "probes", *(f"stages/{s.stage}" for s in manifest.stages.values())]
    theirs = {
        file
        for file in Storage(str(whole.storage)).list_files("")
        if "/checkpoints/" not in file and file.startswith(tuple(f"{p}/" for p in places))
    }
    assert ours == theirs
    accuracies = RunFolder.open(bucket_run.storage, "quick").storage.read_json(
        "runs/quick/metrics.json"
    )["tasks"]
    assert {t: r["tuned"]["accuracy"] for t, r in accuracies.items()} == {
        t: r.accuracy("tuned") for t, r in whole.metrics.tasks.items()
    }


def test_commands_on_a_run_read_it_from_the_bucket(
    whole: Any, bucket_run: BucketRun, tmp_path: Path
) -> None:
    from smt_ray.cli.reports import write_report_of
    from smt_ray.run.evaluate import evaluate_run
    from smt_ray.run.export.merge import merge_run

    bucket_run.storage.write_bytes("runs/quick/report.html", b"")
    assert write_report_of(ROOT, "quick") == f"{ROOT}/runs/quick/report.html"
    assert b"quick" in bucket_run.storage.read_bytes("runs/quick/report.html")

    theirs = merge_run(Storage(str(whole.storage)), "quick", tmp_path / "theirs")
    ours = merge_run(bucket_run.storage, "quick", tmp_path / "ours")
    expected, found = (load_file(place / "model.safetensors") for place in (theirs, ours))
    assert all(found[name].equal(tensor) for name, tensor in expected.items())

    answer = evaluate_run(ROOT, "quick", TASKS, None, ["evaluation.max_rows=8"])
    assert answer.predictions == bucket_run.stage("evaluation_tuned").uri


def test_a_run_leaves_nothing_in_the_temporary_directory(bucket_run: BucketRun) -> None:
    left = os.listdir(bucket_run.scratch)
    assert not [name for name in left if not name.startswith("torchinductor_")]


@pytest.fixture(scope="module")
def bucket_search(bucket_run: BucketRun, environment: dict[str, str], folder: Path) -> Path:
    """The log of a search with one trial in the same bucket, which shares the run's warm-up."""
    run = yaml.safe_load((folder / "run.yaml").read_text())
    del run["name"]
    run["training"] |= {"max_steps": 4, "validate_every_steps": 2}
    run["evaluation"] |= {"base": False, "base_likelihood": False}
    space = {"training.learning_rate": {"grid_search": [1e-3]}}
    search = {"name": "searched", "run": run, "space": space, "scheduler": "none"}
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    command = [sys.executable, "-m", "smt_ray", "tune", folder / "search.yaml"]
    log = folder / "search.log"
    driver = processes.start(command, log, environment)
    try:
        assert driver.wait(timeout=400) == 0, log.read_text()
    finally:
        processes.kill(driver)
    return log


def test_no_file_contains_a_secret_of_the_environment(
    bucket_run: BucketRun, bucket_search: Path
) -> None:
    storage = bucket_run.storage
    assert storage.exists("searches/searched/search.json")
    places = [bucket_run.ray, bucket_run.tracking]
    local = [p for place in places for p in place.rglob("*") if p.is_file() and not p.is_symlink()]
    assert any("worker" in path.name for path in local)
    assert bucket_run.tracking / "mlflow.db" in local
    assert not [
        p for p in [*local, *bucket_run.logs, bucket_search] if CANARY.encode() in p.read_bytes()
    ]
    found = storage.list_files("")
    assert found
    assert not [file for file in found if CANARY.encode() in storage.read_bytes(file)]
