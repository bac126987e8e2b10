"""Ranks, shards and trials are placed on a cluster of declared GPUs as planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def placed() -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    # Otherwise Ray starts a process for each declared CPU at once, and most are never used.
    environment["RAY_prestart_worker_first_driver"] = "0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.gpu_cluster"], cwd=ROOT, text=True, check=False,
        capture_output=True, timeout=240, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_shard_gets_all_its_gpus_and_shares_none(placed: dict[str, Any]) -> None:
    one, other = placed["shards"]
    assert len(one) == len(other) == 4
    assert not set(one) & set(other)


def test_a_rank_gets_one_gpu_of_the_kind_asked_for(placed: dict[str, Any]) -> None:
    assert len(placed["rank"]) == 1


def test_as_many_trials_at_a_time_as_gpus_allow(placed: dict[str, Any]) -> None:
    assert placed["trials"] == 4
