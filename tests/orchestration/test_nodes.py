"""Nodes are asked of an autoscaler for as long as a session needs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config
from smt_ray.errors import UserError
from smt_ray.orchestration import nodes
from smt_ray.orchestration.resources import ProcessResources
from tests import processes
from tests.ranks import free_port

ROOT = Path(__file__).parents[2]
ASKS = ["resources.use_gpu=true", "resources.autoscale_timeout_s=600"]

# What Ray's own launcher would fill in, for an autoscaler that starts workers on this machine.
CLUSTER: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 3,
    "idle_timeout_minutes": 5,
    "upscaling_speed": 9,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 2, "object_store_memory": 100 * 2**20},
            "node_config": {}, "min_workers": 0, "max_workers": 3,
        },
    },
    "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "initialization_commands": [],
    "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
    "head_start_ray_commands": [], "worker_start_ray_commands": [],
}  # fmt: skip


def asked(*overrides: str) -> list[ProcessResources]:
    config = load_config(None, [*ASKS, *overrides])
    return nodes.processes_of(config, config.resources.num_workers)


def test_ranks_are_asked_for_one_by_one_and_a_shard_of_several_gpus_in_one_piece() -> None:
    rank = ProcessResources(1, 1, None)
    assert asked("resources.num_workers=3") == [rank] * 3
    shared = asked("resources.num_workers=3", "warmup.gpus_per_shard=2")
    assert shared == [ProcessResources(2, 2, None), rank]  # two ranks follow where the shard was
    larger = asked("resources.num_workers=1", "warmup.gpus_per_shard=4")
    assert larger == [ProcessResources(1, 4, None)]
    assert asked("resources.use_gpu=false", "resources.num_workers=1") == [
        ProcessResources(1, 0, None)
    ]


def test_what_is_there_already_does_not_say_what_to_ask_for() -> None:
    with pytest.raises(UserError, match="use_gpu"):
        load_config(None, ["resources.autoscale_timeout_s=600"])


def test_what_was_asked_for_is_asked_for_no_more_at_the_end_however_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[list[dict[str, float]]] = []
    monkeypatch.setattr(nodes, "request_resources", lambda bundles: calls.append(bundles))
    monkeypatch.setattr(nodes, "cluster_nodes", lambda: [{"CPU": 8.0, "GPU": 8.0}])
    with pytest.raises(KeyboardInterrupt), nodes.nodes_for(load_config(None, ASKS), num_runs=2):
        raise KeyboardInterrupt
    assert calls == [[{"CPU": 1, "GPU": 1}] * 4, []]


def test_nothing_is_asked_for_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "request_resources", None)
    with nodes.nodes_for(load_config(None)):
        pass


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """What a driver finds on a cluster of no CPUs, whose autoscaler may start some."""
    folder, port = tmp_path_factory.mktemp("autoscaler"), free_port()
    address, session = f"127.0.0.1:{port}", Path(tempfile.gettempdir()) / f"smt_ray_scale_{port}"
    provider = {
        "type": "fake_multinode", "gcs_address": address, "launch_multiple": True,
        "disable_node_updaters": True, "disable_launch_config_check": True,
    }  # fmt: skip
    (folder / "cluster.yaml").write_text(json.dumps({**CLUSTER, "provider": provider}))
    environment = {
        **os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT),
        "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "HOME": str(folder),
    }  # fmt: skip
    log = folder / "head.log"
    leader = processes.start(
        ["ray", "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1",
         "--num-cpus=0", "--num-gpus=0", f"--autoscaling-config={folder / 'cluster.yaml'}",
         "--include-dashboard=false", f"--temp-dir={session}", "--disable-usage-stats"],
        log, {key: value for key, value in environment.items() if key != "RAY_ADDRESS"},
    )  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.orchestration.autoscaling"], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + log.read_text()
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        processes.kill(leader)
        shutil.rmtree(session, ignore_errors=True)


@pytest.mark.slow
def test_an_autoscaler_brings_what_a_run_needs(found: dict[str, int]) -> None:
    assert found == {"before": 0, "within": 2}
