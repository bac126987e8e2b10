"""A real ``mlflow server`` dies during a run and is started again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from smt_ray.documents.run import Record
from smt_ray.tracking.mlflow_tracker import MlflowTracker
from smt_ray.tracking.protocol import RunStart
from smt_ray.tracking.replay import RunSnapshot, replay
from smt_ray.tracking.robust import RobustTracker
from tests.ranks import free_port

pytestmark = pytest.mark.slow


@contextmanager
def _server(folder: Path, port: int) -> Iterator[str]:
    """A server in its own process group, with which its workers end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            command, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_healthy(uri, process)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait_until_healthy(uri: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended at its start"
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server did not come up")


def test_a_run_outlives_its_server_and_is_completed_afterwards(
    tmp_path: Path,
    make_snapshot: Callable[..., RunSnapshot],
    records: list[Record],
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with _server(tmp_path, port) as uri:
        robust = RobustTracker(lambda: MlflowTracker(uri, "exp"), retry_seconds=1.0)
        run_id = robust.start_run(RunStart(name="smt-a", key="store/smt-a/1"), 60)
        robust.log_records(records[:4])
        assert robust.flush(60)
    robust.log_records(records[4:])
    robust.log_artifacts(str(tmp_path / "adapter"), "adapter")
    robust.end_run()
    assert not robust.close(60)
    warnings = [r.getMessage() for r in caplog.records if r.name == "smt_ray.tracking"]
    assert len(warnings) == 1
    assert "smt-ray log smt-a" in warnings[0]
    assert not [r for r in caplog.records if r.levelno == logging.ERROR]

    with _server(tmp_path, port) as uri:
        tracker = MlflowTracker(uri, "exp")
        assert replay(tracker, make_snapshot(run_id=None)) == run_id
        assert replay(MlflowTracker(uri, "exp"), make_snapshot(run_id=run_id)) == run_id
        client = MlflowClient(tracking_uri=uri)
        history = client.get_metric_history(run_id, "train/loss")
        assert [(m.timestamp, m.step, m.value) for m in history] == [
            (r["time_ms"], r["step"], r["metrics"]["train/loss"]) for r in records
        ]
        run = client.get_run(run_id)
        assert (run.info.status, run.info.end_time) == ("FINISHED", make_snapshot().ended_ms)
        assert len(run.inputs.dataset_inputs) == 1
        assert [f.path for f in client.list_artifacts(run_id, "adapter")] == ["adapter/weights.txt"]
        page = f"{uri}/#/experiments/{tracker.experiment_id}/runs/{run_id}"
        assert tracker.run_url() == f"{page}?workflowType=machine_learning"
