"""Faults of services that a run uses: its object store and its MLflow server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from tests.faults.scene import Scene, files
from tests.object_store import BUCKET, S3Server

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server("somebody", "something")
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


def adapter_of(run: Scene) -> dict[str, bytes]:
    storage = Storage(run.config.storage)
    stages = RunFolder.open(storage, run.config.name).manifest().stages
    stage = Stage.open(storage, stages["training"].stage)
    with storage.local(stage.path("adapter")) as folder:
        return files(folder)


def trains_in(run: Scene) -> Callable[[], bool]:
    """Whether a run in the bucket has a complete checkpoint."""
    storage = Storage(run.config.storage)
    return lambda: any("step-0000010" in file for file in storage.list_files("stages"))


def test_the_object_store_goes_away_and_comes_back(
    bucket: S3Server, quick: Callable[..., RunConfig], undisturbed: Scene, tmp_path: Path
) -> None:
    run = Scene(tmp_path, quick(f"s3://{BUCKET}/back", "tracking.enabled=false"))
    run.start()
    run.wait_for(trains_in(run), "a checkpoint")
    bucket.stop()
    time.sleep(8)
    bucket.start()
    assert run.ends() == 0, run.said()
    assert adapter_of(run) == undisturbed.adapter()


def test_the_object_store_goes_away_for_good(
    bucket: S3Server, quick: Callable[..., RunConfig], undisturbed: Scene, tmp_path: Path
) -> None:
    short = {"SMT_RAY_STORAGE_TIMEOUT_S": "4"}
    run = Scene(tmp_path, quick(f"s3://{BUCKET}/gone", "tracking.enabled=false"), short)
    run.start()
    run.wait_for(trains_in(run), "a checkpoint")
    bucket.stop()
    assert run.ends() == 2, run.said()
    line = run.last_line()
    assert line.startswith("error: storage: must answer, and it did not (")
    assert "start the same run again" in line
    bucket.start()
    run.start()
    assert run.ends() == 0, run.said()
    assert "resumed from the checkpoint at step" in run.said()
    assert adapter_of(run) == undisturbed.adapter()


class MlflowServer:
    """An MLflow server on loopback with a database in a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while not self._answers():
            assert time.monotonic() < deadline, "the MLflow server did not start"
            time.sleep(0.3)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False


def test_a_run_that_ended_while_mlflow_was_away_is_closed_by_the_next_start(
    scene: Callable[..., Scene], tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    (tmp_path / "mlflow").mkdir()
    server = MlflowServer(tmp_path / "mlflow")
    server.start()
    try:
        run = scene("training", f"tracking.uri={server.uri}", "training.max_steps=600")
        run.start()
        client = MlflowClient(server.uri)

        def statuses() -> list[str]:
            experiments = [each.experiment_id for each in client.search_experiments()]
            return [found.info.status for found in client.search_runs(experiments)]

        run.wait_for(lambda: statuses() == ["RUNNING"], "a run in MLflow")
        run.trains()
        server.stop()
        assert run.driver is not None
        run.driver.send_signal(signal.SIGINT)
        assert run.ends() == 130
        server.start()
        assert statuses() == ["RUNNING"]
        run.start()
        assert run.ends() == 0, run.said()
        assert statuses() == ["FINISHED"]
    finally:
        server.stop()
