"""Nodes are requested from an autoscaler as long as a session needs them."""

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

from smt_ray.cluster import nodes
from smt_ray.cluster.resources import ProcessResources
from smt_ray.config.load import load_config
from smt_ray.errors import UserError
from tests import processes
from tests.ranks import free_port

ROOT = Path(__file__).parents[2]
ASKS = ["resources.use_gpu=true", "resources.autoscale_timeout_s=600"]

# The configuration of an autoscaler that starts workers on this machine, with the keys that Ray's
# own launcher would add.
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


def asked(*overrides: str, num_ranks: int = 3) -> tuple[dict[ProcessResources, int], Any]:
    return nodes.wanted(load_config(None, [*ASKS, *overrides]), num_ranks, warms_up=True)


RANK = ProcessResources(1, 1, None)


def test_each_rank_has_a_bundle_and_a_shard_of_several_gpus_has_one() -> None:
    assert asked() == ({RANK: 3}, [RANK.bundle] * 3)
    # Two of the three ranks train where the shard was.
    shard = ProcessResources(1, 2, None)
    place = {"CPU": 2, "GPU": 2}
    assert asked("warmup.gpus_per_shard=2") == ({RANK: 3, shard: 1}, [place, RANK.bundle])
    larger = ProcessResources(1, 4, None)
    assert asked("warmup.gpus_per_shard=4", num_ranks=1) == (
        {RANK: 1, larger: 1}, [larger.bundle],
    )  # fmt: skip
    without = ProcessResources(1, 0, None)
    assert asked("resources.use_gpu=false") == ({without: 3}, [{"CPU": 1}] * 3)


def test_an_evaluation_worker_of_several_gpus_has_a_bundle_without_a_warm_up_too() -> None:
    larger = ProcessResources(1, 4, None)
    for method in ("method=smt", "method=lora"):
        found = asked("evaluation.gpus_per_worker=4", method, num_ranks=1)
        assert found == ({RANK: 1, larger: 1}, [larger.bundle])


@pytest.mark.parametrize(
    ("num_ranks", "gpus", "number"), [(8, 1, 8), (8, 4, 2), (7, 4, 1), (1, 4, 1)]
)
def test_evaluation_workers_share_the_gpus_of_the_ranks(
    num_ranks: int, gpus: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "cluster_nodes", lambda: [{"CPU": 16.0, "GPU": 8.0}])
    keys = [
        "resources.use_gpu=true", f"resources.num_workers={num_ranks}",
        f"evaluation.gpus_per_worker={gpus}",
    ]  # fmt: skip
    each = ProcessResources(1, gpus, None)
    assert nodes.evaluator_resources(load_config(None, keys)) == (number, each)


def test_the_gpus_of_an_evaluation_worker_must_be_on_one_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "cluster_nodes", lambda: [{"CPU": 16.0, "GPU": 2.0}] * 8)
    with pytest.raises(UserError, match="the 2 GPUs of a node") as raised:
        nodes.evaluator_resources(
            load_config(None, ["resources.use_gpu=true", "evaluation.gpus_per_worker=4"])
        )
    assert raised.value.field == "evaluation.gpus_per_worker"


@pytest.mark.parametrize("without", ["method=lora", "selection.score=random"])
def test_a_run_without_a_sharded_warm_up_asks_for_no_shard(without: str) -> None:
    assert asked("warmup.gpus_per_shard=2", without) == asked()


def test_an_accelerator_type_is_asked_for_by_name() -> None:
    _, bundles = asked("resources.accelerator_type=A100")
    assert bundles == [{"CPU": 1, "GPU": 1, "accelerator_type:A100": 0.001}] * 3


def test_autoscaling_needs_use_gpu_to_be_true_or_false() -> None:
    with pytest.raises(UserError, match="use_gpu"):
        load_config(None, ["resources.autoscale_timeout_s=600", "resources.use_gpu=auto"])


class Cluster:
    """Stands in for a cluster whose autoscaler starts a node with two GPUs at each request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 99) -> None:
        self.nodes: list[dict[str, float]] = [{"CPU": 4.0}]
        self.requests: list[Any] = []
        self._most = most
        monkeypatch.setattr(nodes, "request_resources", self.ask)
        monkeypatch.setattr(nodes, "cluster_nodes", lambda: self.nodes)
        monkeypatch.setattr(nodes, "_ASK_EVERY_S", 0.0)

    def ask(self, bundles: Any) -> None:
        self.requests.append(bundles)
        if bundles and len(self.nodes) <= self._most:
            self.nodes = [*self.nodes, {"CPU": 4.0, "GPU": 2.0}]


def test_the_wait_for_nodes_covers_all_ranks_and_the_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    run = load_config(None, [*ASKS, "resources.num_workers=3", "warmup.gpus_per_shard=2"])
    smaller = load_config(None, [*ASKS, "resources.num_workers=1"])
    with nodes.nodes_for([smaller, run], num_runs=2):
        assert sum(node.get("GPU", 0) for node in cluster.nodes) == 6
    assert cluster.requests[:-1] == [cluster.requests[0]] * 3


def test_the_wait_for_nodes_ends_at_its_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch, most=1)
    run = load_config(None, [*ASKS, "resources.num_workers=3", "resources.autoscale_timeout_s=0.1"])
    with nodes.nodes_for([run]):
        assert len(cluster.nodes) == 2


def test_the_request_is_withdrawn_even_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    with pytest.raises(KeyboardInterrupt), nodes.nodes_for([load_config(None, ASKS)]):
        raise KeyboardInterrupt
    assert cluster.requests[-1] == []


def test_a_request_that_cannot_be_withdrawn_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    with nodes.nodes_for([load_config(None, ASKS)]):
        monkeypatch.setattr(nodes, "request_resources", None)
    assert cluster.requests[-1]


def test_nothing_is_asked_for_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "request_resources", None)
    with nodes.nodes_for([load_config(None)]), nodes.nodes_for([]):
        pass


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """What a driver finds on a cluster without CPUs, whose autoscaler can start workers."""
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
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}",
         "--node-ip-address=127.0.0.1", "--num-cpus=0", "--num-gpus=0",
         f"--autoscaling-config={folder / 'cluster.yaml'}", "--include-dashboard=false",
         f"--temp-dir={session}", "--disable-usage-stats"],
        log, {key: value for key, value in environment.items() if key != "RAY_ADDRESS"},
    )  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.autoscaling"], cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + log.read_text()
        yield json.loads(done.stdout.splitlines()[-1])
    finally:
        processes.kill(leader)
        shutil.rmtree(session, ignore_errors=True)


@pytest.mark.slow
def test_an_autoscaler_starts_the_nodes_of_a_run(found: dict[str, int]) -> None:
    assert found == {"before": 0, "within": 2}
