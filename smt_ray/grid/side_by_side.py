"""Runs at the same time: each is a task of Ray without CPUs, and its processes ask for CPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import ray

from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import count_places, plan_processes
from smt_ray.config.run import RunConfig

T = TypeVar("T")


def concurrent_runs(runs: Sequence[RunConfig], limit: int | None) -> int:
    """The number of runs that can train at the same time, so that none waits for another.

    Args:
        limit: The largest number; None for as many as the cluster holds.

    Raises:
        UserError: The cluster cannot hold one of them.
    """
    nodes, most = cluster_nodes(), limit or sys.maxsize
    for run in runs:
        workers = run.resources.num_workers
        each = plan_processes(run.resources, workers, nodes, "run.resources.num_workers")
        most = min(most, count_places(nodes, each) // workers)
    return most


def side_by_side(
    work: Callable[[RunConfig], T], configs: Sequence[RunConfig], at_once: int
) -> Iterator[tuple[RunConfig, Callable[[], T]]]:
    """Does the work of runs in processes of their own, so many at once, in the given order.

    Yields:
        A run, as soon as its work has ended, and a function that returns what the work returned or
        raises its error.
    """
    folder = os.getcwd()

    def started(config: RunConfig) -> T:
        enter_folder(folder)
        return work(config)

    task = ray.remote(num_cpus=0)(started)
    waiting = list(reversed(configs))
    running: dict[Any, RunConfig] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            config = waiting.pop()
            running[task.remote(config)] = config
        (done,), _ = ray.wait(list(running))
        yield running.pop(done), partial(_result, done)


def _result(done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def enter_folder(*places: str) -> None:
    """Changes to the first folder that exists on this node, which relative paths start from.

    On a node without the driver's folder, the files of a submitted job are in the folder that the
    process was started in.
    """
    for place in places:
        if os.path.isdir(place):
            os.chdir(place)
            return
