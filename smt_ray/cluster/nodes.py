"""The cluster's nodes: what they have, and those that an autoscaler starts when it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from smt_ray.cluster.resources import ProcessResources, count_places
from smt_ray.cluster.session import ray_session
from smt_ray.config.run import RunConfig
from smt_ray.reporting.text.progress import say

_ASK_EVERY_S, _SAY_EVERY_S = 2.0, 30.0

Bundles = list[dict[str, float]]


def alive_nodes() -> list[dict[str, Any]]:
    """What Ray says of each node that is alive."""
    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [node for node in list_nodes() if node["Alive"]]


def cluster_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive, by Ray's names."""
    return [node["Resources"] for node in alive_nodes()]


@contextmanager
def ray_for(
    configs: Sequence[RunConfig],
    num_runs: int = 1,
    *,
    warms_up: bool = True,
    dashboard: bool = False,
) -> Iterator[None]:
    """Ray (:func:`ray_session`) with the nodes that runs need (:func:`nodes_for`).

    A run of a search or a comparison is connected already: nodes were asked for all of them.
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
    """Has an autoscaler start nodes for runs, and keep them for as long as the context is open.

    A run counts what the cluster has and refuses what that cannot hold: where workers come and go
    there may be none to count. If they do not come within ``resources.autoscale_timeout_s``, the
    context opens all the same, and that check says what is missing.

    A cluster remembers one such request alone: the latest of all drivers.

    Args:
        configs: Runs; what the one of the most workers needs is asked for. Nothing where none is
            given, or where they do not say how long to wait.
        num_runs: How many train at the same time.
        warms_up: Whether a warm-up's shards are to be placed too.
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
    """How many processes of each kind there must be places for, and what to ask for.

    Args:
        config: The run's configuration.
        num_ranks: Ranks at the same time.
        warms_up: Whether a warm-up's shards are to be placed too.
    """
    resources, gpus = config.resources, config.warmup.gpus_per_shard
    kind, cpus = resources.accelerator_type, resources.cpus_per_worker
    rank = ProcessResources(cpus, int(resources.use_gpu is True), kind)
    if not (warms_up and config.sharded_warmup and rank.num_gpus and gpus > 1):
        return {rank: num_ranks}, [rank.bundle] * num_ranks
    # Shards take turns where there is but one place; ranks train where it was.
    afterwards = min(gpus, num_ranks)
    place = ProcessResources(cpus * afterwards, gpus, kind)
    places = {rank: num_ranks, ProcessResources(cpus, gpus, kind): 1}
    return places, [place.bundle] + [rank.bundle] * (num_ranks - afterwards)


def _wait(places: dict[ProcessResources, int], bundles: Bundles, timeout_s: float) -> None:
    began, said = time.monotonic(), float("-inf")
    while True:
        request_resources(bundles=bundles)  # each time: another driver's request took its place
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
    """Lets the autoscaler end what idles; to fail at that must not hide how the run ended."""
    try:
        request_resources(bundles=[])
    except Exception as error:  # the cluster is gone, for instance
        say(f"WARNING cluster: its nodes are still asked for ({error})")
