"""The resources of processes are checked against the nodes of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.cluster.resources import (
    GpusEach,
    ProcessResources,
    count_places,
    plan_processes,
)
from smt_ray.config.running import ResourcesConfig
from smt_ray.errors import UserError

LAPTOP = {"CPU": 2.0, "memory": 1e9}
NODE = {"CPU": 16.0, "GPU": 8.0, "accelerator_type:H100": 1.0}


def plan(*nodes: dict[str, float], num_at_once: int = 2, **config: Any) -> ProcessResources:
    resources = ResourcesConfig(**config)
    return plan_processes(resources, num_at_once, nodes, "resources.num_workers")


@pytest.mark.parametrize(
    ("cluster", "use_gpu", "num_gpus", "device"),
    [
        (LAPTOP, "auto", 0, "cpu"),
        (LAPTOP, False, 0, "cpu"),
        (NODE, "auto", 1, "cuda"),
        (NODE, True, 1, "cuda"),
        (NODE, False, 0, "cpu"),
    ],
)
def test_a_process_gets_one_gpu_if_there_are_any_and_they_are_wanted(
    cluster: dict[str, float], use_gpu: bool | str, num_gpus: int, device: str
) -> None:
    found = plan(cluster, use_gpu=use_gpu)
    assert (found.num_gpus, found.device) == (num_gpus, device)


def test_an_accelerator_type_is_asked_for_only_with_a_gpu() -> None:
    wanted = {"accelerator_type": "H100"}
    assert plan(NODE, **wanted).options() == {"num_cpus": 1, "num_gpus": 1, **wanted}
    assert plan(NODE, use_gpu=False, **wanted).options() == {"num_cpus": 1, "num_gpus": 0}


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1, 1), (1.4, 1), (4, 4)])
def test_the_number_of_threads_follows_cpus_and_is_never_zero(cpus: float, threads: int) -> None:
    assert plan(NODE, cpus_per_worker=cpus).num_threads == threads


def test_as_many_processes_as_fit_are_allowed() -> None:
    assert plan(LAPTOP).num_cpus == 1
    assert plan(LAPTOP, num_at_once=4, cpus_per_worker=0.5).num_cpus == 0.5
    assert plan(NODE, num_at_once=8).num_gpus == 1


@pytest.mark.parametrize(
    ("nodes", "num_at_once", "config", "rule", "fix"),
    [
        ([LAPTOP], 3, {}, "3 processes of 1 CPU each must fit the cluster's 2 CPUs", "at most 2"),
        ([LAPTOP], 2, {"cpus_per_worker": 1.5}, "must fit the cluster's 2 CPUs", "at most 1"),
        ([NODE], 9, {}, "9 processes of 1 CPU and a GPU each must fit", "at most 8"),
        ([NODE], 8, {"cpus_per_worker": 3}, "the cluster's 16 CPUs and 8 GPUs", "at most 5"),
        # A process needs its resources on one node.
        ([LAPTOP] * 3, 4, {"cpus_per_worker": 1.5}, "6 CPUs on 3 nodes", "at most 3"),
        ([LAPTOP, {"GPU": 2.0}], 1, {}, "1 processes of 1 CPU and a GPU", "change resources"),
    ],
)
def test_processes_that_do_not_fit_are_refused_with_the_number_that_fits(
    nodes: list[dict[str, float]], num_at_once: int, config: dict[str, Any], rule: str, fix: str
) -> None:
    with pytest.raises(UserError) as raised:
        plan(*nodes, num_at_once=num_at_once, **config)
    error = raised.value
    assert (error.field, error.got) == ("resources.num_workers", num_at_once)
    assert rule in error.rule
    assert fix in error.fix


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"use_gpu": True}, "needs a GPU, and the cluster has none"),
        ({"cpus_per_worker": 3.0}, "must fit the 2 CPUs of a node"),
    ],
)
def test_resources_that_no_node_has_are_named(config: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError) as raised:
        plan(LAPTOP, num_at_once=1, **config)
    key, value = next(iter(config.items()))
    assert (raised.value.field, raised.value.got) == (f"resources.{key}", value)
    assert raised.value.rule == rule


HEAD = {"memory": 1e9}
"""The only node of a cluster whose workers an autoscaler starts."""


@pytest.mark.parametrize(
    ("config", "field", "rule"),
    [
        ({}, "autoscale_timeout_s", "no node of the cluster has a CPU for workers"),
        ({"use_gpu": False}, "autoscale_timeout_s", "no node of the cluster has a CPU"),
        ({"use_gpu": True}, "use_gpu", "needs a GPU, and the cluster has none"),
    ],
)
def test_the_error_for_a_cluster_without_workers_says_how_to_ask_for_some(
    config: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(UserError) as raised:
        plan(HEAD, **config)
    error = raised.value
    assert error.field == f"resources.{field}"
    assert error.rule.startswith(rule)
    assert "resources.autoscale_timeout_s=1800" in error.fix


@pytest.mark.parametrize("use_gpu", [True, False])
def test_workers_that_came_too_late_are_reported(use_gpu: bool) -> None:
    with pytest.raises(UserError, match="none came within 90 s") as raised:
        plan(HEAD, use_gpu=use_gpu, autoscale_timeout_s=90.0)
    assert "wait longer" in raised.value.fix


def plan_shards(*nodes: dict[str, float], num_at_once: int, gpus_each: int) -> ProcessResources:
    gpus = GpusEach(gpus_each, "warmup.gpus_per_shard")
    return plan_processes(ResourcesConfig(), num_at_once, nodes, "warmup.num_shards", gpus)


def test_a_shard_of_several_gpus_gets_them_and_is_refused_without_any() -> None:
    each = plan_shards(NODE, num_at_once=2, gpus_each=4)
    assert each.options() == {"num_cpus": 1, "num_gpus": 4}
    with pytest.raises(UserError, match="3 processes of 1 CPU and 4 GPUs each must fit"):
        plan_shards(NODE, num_at_once=3, gpus_each=4)
    with pytest.raises(UserError, match=r"warmup\.gpus_per_shard: needs GPUs"):
        plan_shards(LAPTOP, num_at_once=1, gpus_each=2)


def test_a_shard_needs_its_gpus_on_one_node() -> None:
    single = {"CPU": 8.0, "GPU": 1.0}
    with pytest.raises(UserError, match="the 1 GPUs of a node") as raised:
        plan_shards(*[single] * 8, num_at_once=1, gpus_each=2)
    assert (raised.value.field, raised.value.got) == ("warmup.gpus_per_shard", 2)


def test_an_accelerator_type_that_no_node_has_is_refused_and_existing_types_are_listed() -> None:
    other = {"CPU": 8.0, "GPU": 8.0, "accelerator_type:A100": 1.0}
    assert plan(NODE, other, num_at_once=8, accelerator_type="A100").num_gpus == 1
    with pytest.raises(UserError, match="types there: A100, H100") as raised:
        plan(NODE, other, accelerator_type="T4")
    assert raised.value.field == "resources.accelerator_type"
    with pytest.raises(UserError, match="at most 8"):  # nodes of another type do not count
        plan(NODE, other, num_at_once=9, accelerator_type="A100")


CPU, GPU = ProcessResources(1, 0, None), ProcessResources(2, 1, None)


@pytest.mark.parametrize(
    ("nodes", "each", "places"),
    [
        ([{"CPU": 2}], CPU, 2),
        ([{"CPU": 3}, {"CPU": 3}], ProcessResources(2, 0, None), 2),  # not (3 + 3) // 2
        ([{"CPU": 64, "GPU": 8}] * 2, GPU, 16),
        ([{"CPU": 8, "GPU": 8}] * 2, GPU, 8),  # limited by the CPUs
        ([{"CPU": 64}, {"CPU": 64, "GPU": 4}], GPU, 4),
        ([{"CPU": 0.3}], ProcessResources(0.1, 0, None), 3),  # not fewer because of rounding
    ],
)
def test_places_are_counted_node_by_node(
    nodes: list[dict[str, float]], each: ProcessResources, places: int
) -> None:
    assert count_places(nodes, each) == places
