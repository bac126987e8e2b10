"""The resources of processes: pure functions of the config and of what the nodes have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smt_ray.config.running import ResourcesConfig
from smt_ray.errors import UserError

Nodes = Sequence[Mapping[str, float]]
"""The resources of each node, by Ray's names."""

_ACCELERATOR = "accelerator_type:"  # begins Ray's name of a resource of nodes with an accelerator
_ASK = "if the cluster has an autoscaler, set resources.autoscale_timeout_s=1800 to ask for nodes"
_LATE = "see what the autoscaler says (ray status), or wait longer: resources.autoscale_timeout_s"


@dataclass(frozen=True)
class ProcessResources:
    """The resources of one process.

    Attributes:
        num_gpus: The number of GPUs; 0 to compute on the CPU.
        accelerator_type: Ray's name of the accelerator type; None for any.
    """

    num_cpus: float
    num_gpus: int
    accelerator_type: str | None

    @property
    def num_threads(self) -> int:
        """The number of threads."""
        return max(1, round(self.num_cpus))

    @property
    def device(self) -> str:
        """The device that the process computes on, by torch's name."""
        return "cuda" if self.num_gpus else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """The resources as a bundle of a placement group or of a request to the autoscaler."""
        held = {"CPU": self.num_cpus}
        if self.num_gpus:
            held["GPU"] = self.num_gpus
            if self.accelerator_type:
                # Ray itself asks for this amount if a task has an accelerator type.
                held[_ACCELERATOR + self.accelerator_type] = 0.001
        return held

    def __str__(self) -> str:
        cpus = f"{self.num_cpus:g} CPU{'' if self.num_cpus == 1 else 's'}"
        gpus = {0: "", 1: " and a GPU"}.get(self.num_gpus, f" and {self.num_gpus} GPUs")
        kind = f" ({self.accelerator_type})" if self.num_gpus and self.accelerator_type else ""
        return cpus + gpus + kind

    def options(self) -> dict[str, object]:
        """The keyword arguments of ``.options()`` of a Ray task or actor."""
        chosen: dict[str, object] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.accelerator_type and self.num_gpus:
            chosen["accelerator_type"] = self.accelerator_type
        return chosen


def count_places(nodes: Nodes, each: ProcessResources) -> int:
    """The number of processes that fit the nodes at the same time, each of them on one node."""
    return sum(
        min(math.floor(node.get(name, 0.0) / held + 1e-9) for name, held in each.bundle.items())
        for node in nodes
    )


@dataclass(frozen=True)
class GpusEach:
    """The number of GPUs of a process, if GPUs are used, and the config key that sets it."""

    number: int = 1
    key: str = ""


def plan_processes(
    config: ResourcesConfig,
    num_at_once: int,
    nodes: Nodes,
    what: str,
    gpus_each: GpusEach = GpusEach(),
) -> ProcessResources:
    """The resources of each of several processes, checked against the nodes of the cluster.

    Args:
        num_at_once: The number of processes that must run at the same time; 1 if they can take
            turns.
        what: The config key that sets ``num_at_once``, for the message.
        gpus_each: See :class:`GpusEach`.

    Raises:
        UserError: The nodes cannot hold all processes, so Ray would wait for ever.
    """
    num_cpus, num_gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    use_gpu = num_gpus > 0 if config.use_gpu == "auto" else config.use_gpu
    each = ProcessResources(
        config.cpus_per_worker, gpus_each.number if use_gpu else 0, config.accelerator_type
    )
    _check_one(each, config, gpus_each, nodes)
    places = count_places(nodes, each)
    if num_at_once > places:
        there = f"{num_cpus:g} CPUs" + (f" and {num_gpus:g} GPUs" if use_gpu else "")
        on = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
        raise UserError(
            what,
            f"{num_at_once} processes of {each} each must fit the cluster's {there}{on}",
            got=num_at_once,
            fix=(f"set {what} to at most {places}, or " if places else "") + "change resources",
        )
    return each


def _check_one(
    each: ProcessResources, config: ResourcesConfig, gpus_each: GpusEach, nodes: Nodes
) -> None:
    """Refuses a process that no node can hold, and names the key that asks for too much."""
    cpus, gpus = (max(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    if each.num_gpus and not gpus:
        raise _no_gpu(config)
    if not cpus:
        raise _no_cpu(config)
    _check_gpus(each, gpus_each, gpus)
    if each.num_cpus > cpus:
        raise UserError(
            "resources.cpus_per_worker",
            f"must fit the {cpus:g} CPUs of a node",
            got=config.cpus_per_worker,
            fix=f"set it to at most {cpus:g}",
        )
    if each.accelerator_type and each.num_gpus:
        _check_accelerator_type(each.accelerator_type, nodes)


def _no_gpu(config: ResourcesConfig) -> UserError:
    waited = config.autoscale_timeout_s
    late = f": none came within {waited:g} s" if waited else ""
    return UserError(
        "resources.use_gpu",
        f"needs a GPU, and the cluster has none{late}",
        got=config.use_gpu,
        fix=_LATE if waited else f"set it to false, use a cluster that has GPUs, or, {_ASK}",
    )


def _no_cpu(config: ResourcesConfig) -> UserError:
    waited = config.autoscale_timeout_s
    reason = f"none came within {waited:g} s" if waited else "the autoscaler is not asked for one"
    return UserError(
        "resources.autoscale_timeout_s",
        f"no node of the cluster has a CPU for workers, and {reason}",
        got=waited,
        fix=_LATE if waited else f"{_ASK}, and resources.use_gpu=true or false",
    )


def _check_gpus(each: ProcessResources, gpus_each: GpusEach, gpus_of_a_node: float) -> None:
    if gpus_each.number > 1 and not each.num_gpus:
        raise UserError(
            gpus_each.key,
            "needs GPUs, and none are used",
            got=gpus_each.number,
            fix="set it to 1 to compute on the CPU",
        )
    if each.num_gpus > gpus_of_a_node:
        raise UserError(
            gpus_each.key,
            f"must fit the {gpus_of_a_node:g} GPUs of a node, as a process needs all on one node",
            got=gpus_each.number,
            fix=f"set it to at most {gpus_of_a_node:g}",
        )


def _check_accelerator_type(wanted: str, nodes: Nodes) -> None:
    offered = {name for node in nodes for name in node if name.startswith(_ACCELERATOR)}
    types = {name.removeprefix(_ACCELERATOR) for name in offered}
    if wanted not in types:
        raise UserError(
            "resources.accelerator_type",
            "must be on a node of the cluster",
            got=wanted,
            fix=f"types there: {', '.join(sorted(types)) or 'none'}; or null for any",
        )
