"""Claims about what a run on one machine shows to other machines and other users."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from smt_ray.config.load import to_yaml
from smt_ray.config.run import RunConfig
from tests import processes
from tests.run.test_survival import BEFORE_TRAINING, wait_for_checkpoint

pytestmark = pytest.mark.slow


def listening(session: int) -> dict[str, str]:
    """The addresses that the processes of a session listen on, with the processes."""
    found = {}
    for pid in processes.members(session):
        try:
            process = psutil.Process(pid)
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    address = f"{connection.laddr.ip}:{connection.laddr.port}"
                    found[address] = process.name()
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_run_listens_on_loopback_only_and_its_folders_are_private(
    stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    storage = stages_of(BEFORE_TRAINING)
    config = quick(storage, "training.max_steps=1000", "resources.num_workers=2")
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    temporary = Path("/tmp") / f"smt_ray_test_{os.getpid()}"  # short, for the paths of sockets
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = processes.start(
        [sys.executable, "-m", "smt_ray", "run", tmp_path / "run.yaml", "--until", "training"],
        tmp_path / "driver.log",
        environment | {"TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)},
        umask=0o077,
    )
    try:
        stages = storage / "stages"
        deadline = time.monotonic() + 240
        while not list(stages.glob("training-*/checkpoints")):
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (folder,) = stages.glob("training-*/checkpoints")
        wait_for_checkpoint(folder, alive=lambda: driver.poll() is None, step=1)
        found = listening(driver.pid)
        (private,) = temporary.glob("ray-*")
        mode = stat.S_IMODE(private.stat().st_mode)
        written = [*folder.rglob("*"), *(storage / "runs").rglob("*")]
        open_to_others = [path for path in written if path.stat().st_mode & 0o077]
        owners = {path.parts[len(temporary.parts)] for path in temporary.rglob("session_*")}
        os.kill(driver.pid, signal.SIGINT)
        driver.wait(timeout=90)
    finally:
        processes.kill(driver)
    assert any("raylet" in name for name in found.values()), found
    assert len([name for name in found.values() if "RayTrainWorker" in name]) >= 2, found
    outside = {a: name for a, name in found.items() if not a.startswith(("127.", "::ffff:127."))}
    assert not outside
    assert mode == 0o700
    assert written
    assert not open_to_others
    assert owners == {private.name}
