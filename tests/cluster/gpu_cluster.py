"""A program that places ranks, shards and trials on a cluster of eight declared GPUs.

It starts a Ray of its own (``python -m tests.cluster.gpu_cluster``), and nothing computes on a GPU.
"""

from __future__ import annotations

import json
import tempfile
import time
from typing import Any

import ray
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import GpusEach, plan_processes
from smt_ray.config.load import validate_section
from smt_ray.config.running import ResourcesConfig
from smt_ray.config.search import SearchConfig
from smt_ray.grid.side_by_side import concurrent_runs
from smt_ray.stages.training import scaling

SEARCH: dict[str, Any] = {
    "name": "search",
    "scheduler": "none",
    "run": {
        "model": {"builtin": "tiny"},
        "data": {"train": ["builtin:tiny_arithmetic"], "validation_rows": 8},
        "resources": {"num_workers": 2, "accelerator_type": "H100"},
    },
    "space": {"seed": {"choice": [0]}},
}


def _shard() -> list[int]:
    """Runs long enough for another shard to need GPUs at the same time."""
    time.sleep(1)
    return _rank()


def _rank() -> list[int]:
    return sorted(map(int, ray.get_gpu_ids()))


def main() -> dict[str, Any]:
    """Places two shards, two ranks and a search; returns the GPUs that they get."""
    ray.init(
        address="local", num_cpus=8, num_gpus=8, resources={"accelerator_type:H100": 8},
        include_dashboard=False, log_to_driver=False, logging_level="warning",
    )  # fmt: skip
    config, nodes = ResourcesConfig(**SEARCH["run"]["resources"]), cluster_nodes()
    rank = plan_processes(config, 2, nodes, "resources.num_workers")
    four = GpusEach(4, "warmup.gpus_per_shard")
    shard = plan_processes(config, 1, nodes, "warmup.num_shards", four)
    task = ray.remote(_shard).options(**shard.options())
    shards = ray.get([task.remote() for _ in range(2)])
    with tempfile.TemporaryDirectory() as folder:
        ranks = DataParallelTrainer(
            _rank,
            scaling_config=scaling(2, rank),
            run_config=ray.train.RunConfig(name="ranks", storage_path=folder),
        ).fit()
    search = validate_section(SearchConfig, SEARCH)
    trials = concurrent_runs([search.make_run({"seed": 0})], None)
    ray.shutdown()
    return {"shards": shards, "rank": ranks.return_value, "trials": trials}


if __name__ == "__main__":
    print(json.dumps(main()))
