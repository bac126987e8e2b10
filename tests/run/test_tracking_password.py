"""Claims about a password in MLflow's address: no message and no file contains it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.cluster.writer import Writer
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.run import log
from smt_ray.run import record as run_record
from smt_ray.run.snapshot import read_snapshot, read_start
from smt_ray.stages.plan import make_plan
from smt_ray.tracking.connect import tracker_settings
from tests.ranks import free_port

CANARY = "canary83b1f0"


@pytest.fixture
def run(make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that has begun and is tracked at an address without a server."""
    uri = f"http://somebody:{CANARY}@127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    plan = make_plan(make_config("tracking.enabled=true"))
    folder = RunFolder(plan.storage, plan.config.name)
    run_record.begin(folder, plan)
    return folder


def test_the_writers_error_about_a_missing_server_has_no_password(
    run: RunFolder, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config("tracking.enabled=true")
    settings = tracker_settings(config.tracking, run.storage.root)
    assert settings is not None
    assert CANARY in settings.uri  # MLflow's own messages repeat it
    writer = Writer(settings)
    assert writer.start_run(read_start(run)) is None
    with read_snapshot(run) as snapshot:
        sent = writer.finish(snapshot, timeout=30.0)
    assert sent.complete is False
    assert "somebody:***@127.0.0.1" in sent.error
    assert CANARY not in str(sent)


def test_the_error_of_smt_ray_log_about_a_missing_server_has_no_password(run: RunFolder) -> None:
    with pytest.raises(UserError, match="did not take the run") as raised:
        log.log_run(run.storage.root, run.name)
    assert "somebody:***@127.0.0.1" in raised.value.rule
    assert CANARY not in str(raised.value)


def test_no_file_of_a_run_contains_the_password(run: RunFolder) -> None:
    files = run.storage.list_files("")
    assert files
    assert not [file for file in files if CANARY.encode() in run.storage.read_bytes(file)]
