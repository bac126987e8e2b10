"""The nodes of the cluster, and the request for nodes that an autoscaler starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from smt_ray.cluster.resources import GpusEach, ProcessResources, count_places, plan_processes
from smt_ray.cluster.session import ray_session
from smt_ray.config.run import RunConfig
from smt_ray.reporting.text.progress import say

_ASK_EVERY_S, _SAY_EVERY_S = 2.0, 30.0

Bundles = list[dict[str, float]]


def alive_nodes() -> list[dict[str, Any]]:
    """The description of each node that is alive, as Ray gives it."""
    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node for node in list_nodes() if node["Alive"]]


def cluster_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive, by Ray's names."""
    return [node["Resources"] for node in alive_nodes()]


def rank_resources(config: RunConfig) -> ProcessResources:
    """The resources of each training rank.

    Raises:
        UserError: The cluster cannot hold that many of them.
    """
    asked = config.resources
    return plan_processes(asked, asked.num_workers, cluster_nodes(), "resources.num_workers")


def evaluator_resources(config: RunConfig) -> tuple[int, ProcessResources]:
    """The number of evaluation workers, and the resources of each.

    Raises:
        UserError: The cluster cannot hold that many of them.
    """
    asked, gpus = config.resources, config.evaluation.gpus_per_worker
    number = max(1, asked.num_workers // gpus)
    return number, plan_processes(
        asked, number, cluster_nodes(), "resources.num_workers",
        GpusEach(gpus, "evaluation.gpus_per_worker"),
    )  # fmt: skip


@contextmanager
def ray_for(
    configs: Sequence[RunConfig],
    num_runs: int = 1,
    *,
    warms_up: bool = True,
    dashboard: bool = False,
) -> Iterator[None]:
    """Connects to Ray (:func:`ray_session`) and asks for nodes (:func:`nodes_for`).

    A run of a search or a comparison is already connected. It asks for no nodes, because the search
    or comparison has asked for the nodes of all its runs.
    """
    with (
        ray_session(dashboard=dashboard) as connected,
        nodes_for(configs if connected else [], num_runs, warms_up=warms_up),
    ):
        yield


@contextmanager
def nodes_for(
    configs: Sequence[RunConfig], num_runs: int = 1, *, warms_up: bool = True
) -> Iterator[None]:
    """Asks the autoscaler for the nodes of runs, and keeps them while the context is open.

    A run is refused if its processes do not fit the nodes of the cluster. A cluster with an
    autoscaler may have no nodes yet, so this function waits for them first. If they do not start
    within ``resources.autoscale_timeout_s``, the context opens without them, and the check of the
    run reports what is missing.

    A cluster keeps only one such request, the latest of all drivers.

    Args:
        configs: The runs. Nodes are asked for the one with the most workers; none are asked for if
            it sets no ``resources.autoscale_timeout_s``, or if there are no runs.
        num_runs: The number of runs that train at the same time.
        warms_up: Whether the shards of a warm-up must be placed, too.
    """
    config = max(configs, key=lambda run: run.resources.num_workers, default=None)
    if config is None or not config.resources.autoscale_timeout_s:
        yield
        return
    places, bundles = wanted(config, config.resources.num_workers * num_runs, warms_up=warms_up)
    try:
        _wait(places, bundles, config.resources.autoscale_timeout_s)
        yield
    finally:
        _withdraw()


def wanted(
    config: RunConfig, num_ranks: int, *, warms_up: bool
) -> tuple[dict[ProcessResources, int], Bundles]:
    """The number of processes of each kind that must fit, and the bundles to ask for.

    Args:
        num_ranks: The number of ranks at the same time.
        warms_up: Whether the shards of a warm-up must be placed, too.
    """
    resources, gpus = config.resources, config.evaluation.gpus_per_worker
    if warms_up and config.base_warmup and config.warmup.processes == "shards":
        gpus = max(gpus, config.warmup.gpus_per_shard)
    kind, cpus = resources.accelerator_type, resources.cpus_per_worker
    rank = ProcessResources(cpus, int(resources.use_gpu is True), kind)
    if not rank.num_gpus or gpus == 1:
        return {rank: num_ranks}, [rank.bundle] * num_ranks
    # A place for one shard is enough, since shards can take turns. Ranks train there afterwards,
    # and a model that needs several GPUs is evaluated there.
    afterwards = min(gpus, num_ranks)
    place = ProcessResources(cpus * afterwards, gpus, kind)
    places = {rank: num_ranks, ProcessResources(cpus, gpus, kind): 1}
    return places, [place.bundle] + [rank.bundle] * (num_ranks - afterwards)


def _wait(places: dict[ProcessResources, int], bundles: Bundles, timeout_s: float) -> None:
    began, said = time.monotonic(), float("-inf")
    while True:
        request_resources(bundles=bundles)  # again, as another driver may have replaced it
        nodes = cluster_nodes()
        missing = [
            f"{number} x {each}"
            for each, number in places.items()
            if count_places(nodes, each) < number
        ]
        now = time.monotonic()
        if not missing or now - began > timeout_s:
            return
        if now - said > _SAY_EVERY_S:
            said = now
            say(f"cluster: waiting for nodes with {', '.join(missing)}")
        time.sleep(_ASK_EVERY_S)


def _withdraw() -> None:
    """Lets the autoscaler end idle nodes."""
    try:
        request_resources(bundles=[])
    except Exception as error:  # it must not hide how the run ended; the cluster may be gone
        say(f"WARNING cluster: the request for its nodes could not be withdrawn ({error})")
