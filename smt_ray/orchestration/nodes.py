"""The cluster's nodes: what they have, and those that an autoscaler starts when it is asked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.autoscaler.sdk import request_resources

from smt_ray.config.run import RunConfig
from smt_ray.orchestration.progress import say
from smt_ray.orchestration.resources import ProcessResources, count_places

_ASK_EVERY_S, _SAY_EVERY_S = 2.0, 30.0


def cluster_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def nodes_for(config: RunConfig, num_runs: int = 1) -> Iterator[None]:
    """Has an autoscaler start nodes for runs, and keep them for as long as the context is open.

    A run counts what the cluster has and refuses what that cannot hold: where workers come and go
    there may be none to count. If they do not come within ``resources.autoscale_timeout_s``, the
    context opens all the same, and that check says what is missing.

    Args:
        config: The run's configuration.
        num_runs: How many train at the same time.
    """
    resources = config.resources
    if not resources.autoscale_timeout_s:
        yield
        return
    processes = processes_of(config, resources.num_workers * num_runs)
    request_resources(bundles=[each.bundle for each in processes])
    try:
        _wait(processes, resources.autoscale_timeout_s)
        yield
    finally:
        request_resources(bundles=[])


def processes_of(config: RunConfig, num_ranks: int) -> list[ProcessResources]:
    """What the ranks need; those that train where a shard of several GPUs was are one."""
    resources, gpus = config.resources, config.warmup.gpus_per_shard
    kind, cpus = resources.accelerator_type, resources.cpus_per_worker
    rank = ProcessResources(cpus, int(resources.use_gpu is True), kind)
    if not rank.num_gpus or gpus == 1:
        return [rank] * num_ranks
    in_its_place = min(gpus, num_ranks)
    shard = ProcessResources(cpus * in_its_place, gpus, kind)
    return [shard] + [rank] * (num_ranks - in_its_place)


def _wait(processes: list[ProcessResources], timeout_s: float) -> None:
    began, said = time.monotonic(), float("-inf")
    wanted = Counter(processes)
    while missing := [
        f"{number} x {each}"
        for each, number in wanted.items()
        if count_places(cluster_nodes(), each) < number
    ]:
        now = time.monotonic()
        if now - began > timeout_s:
            return
        if now - said > _SAY_EVERY_S:
            said = now
            say(f"cluster: waiting for nodes with {', '.join(missing)}")
        time.sleep(_ASK_EVERY_S)
