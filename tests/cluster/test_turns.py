"""Only one process at a time has the turn of a name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from smt_ray.cluster.turns import turn

pytestmark = pytest.mark.slow


def _hold(name: str, file: Path, seconds: float) -> bool:
    """Takes the turn; fails if another process has it, too."""
    with turn(name):
        file.touch(exist_ok=False)
        time.sleep(seconds)
        file.unlink()
    return True


def test_processes_have_a_turn_one_after_the_other(cluster: None, tmp_path: Path) -> None:
    hold = ray.remote(num_cpus=0)(_hold)
    assert ray.get([hold.remote("stage", tmp_path / "held", 1.0) for _ in range(2)], timeout=60)


def test_a_turn_ends_with_the_process_that_had_it(cluster: None, tmp_path: Path) -> None:
    hold = ray.remote(num_cpus=0, max_retries=0)(_hold)
    killed = hold.remote("another", tmp_path / "killed", 600.0)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ray.cancel(killed, force=True)
    assert ray.get(hold.remote("another", tmp_path / "later", 0.0), timeout=60)
