"""Resource arithmetic: pure functions of the config and what the cluster's nodes have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smt_ray.config.running import ResourcesConfig
from smt_ray.errors import UserError

Nodes = Sequence[Mapping[str, float]]  # each node's resources, by Ray's names
_ACCELERATOR = "accelerator_type:"  # what Ray has a node with such an accelerator offer
_ASK = "where nodes start when they are asked for, ask: resources.autoscale_timeout_s=1800"
_LATE = "see what the autoscaler says (ray status), or wait longer: resources.autoscale_timeout_s"


@dataclass(frozen=True)
class ProcessResources:
    """What one process asks Ray for.

    Attributes:
        num_cpus: CPUs, and threads rounded up.
        num_gpus: GPUs; 0 to compute on the CPU.
        accelerator_type: Ray's name, or None for any.
    """

    num_cpus: float
    num_gpus: int
    accelerator_type: str | None

    @property
    def num_threads(self) -> int:
        """Threads of the process."""
        return max(1, round(self.num_cpus))

    @property
    def device(self) -> str:
        """Where the process computes, by torch's name."""
        return "cuda" if self.num_gpus else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray and its autoscaler are told that it holds."""
        held = {"CPU": self.num_cpus}
        if self.num_gpus:
            held["GPU"] = self.num_gpus
            if self.accelerator_type:
                held[_ACCELERATOR + self.accelerator_type] = 0.001  # as Ray itself asks for it
        return held

    def __str__(self) -> str:
        cpus = f"{self.num_cpus:g} CPU{'' if self.num_cpus == 1 else 's'}"
        gpus = {0: "", 1: " and a GPU"}.get(self.num_gpus, f" and {self.num_gpus} GPUs")
        kind = f" ({self.accelerator_type})" if self.num_gpus and self.accelerator_type else ""
        return cpus + gpus + kind

    def options(self) -> dict[str, object]:
        """The keywords of ``.options()``."""
        chosen: dict[str, object] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.accelerator_type and self.num_gpus:
            chosen["accelerator_type"] = self.accelerator_type
        return chosen


def count_places(nodes: Nodes, each: ProcessResources) -> int:
    """How many processes nodes hold at once.

    Args:
        nodes: Resources of each node; a process does not spread over two.
        each: Of one process.
    """
    return sum(
        min(math.floor(node.get(name, 0.0) / held + 1e-9) for name, held in each.bundle.items())
        for node in nodes
    )


def plan_processes(
    config: ResourcesConfig, num_at_once: int, nodes: Nodes, what: str, gpus_each: int = 1
) -> ProcessResources:
    """What each of several processes gets, checked against the whole cluster.

    Args:
        config: The config's ``resources`` section.
        num_at_once: Processes that must run at the same time; 1 where they can take turns.
        nodes: Resources of each node.
        what: The config key that sets ``num_at_once``, for the message.
        gpus_each: GPUs of a process, where there are any.

    Raises:
        UserError: They can never all be placed, so that Ray would wait for ever.
    """
    num_cpus, num_gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    use_gpu = num_gpus > 0 if config.use_gpu == "auto" else config.use_gpu
    each = ProcessResources(
        config.cpus_per_worker, gpus_each if use_gpu else 0, config.accelerator_type
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
    each: ProcessResources, config: ResourcesConfig, gpus_each: int, nodes: Nodes
) -> None:
    """Refuses what no node has for a single process, by the key that asks for it."""
    cpus, gpus = (max(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    waited = config.autoscale_timeout_s
    if each.num_gpus and not gpus:
        came = f": none came within {waited:g} s" if waited else ""
        raise UserError(
            "resources.use_gpu",
            f"needs a GPU, and the cluster has none{came}",
            got=config.use_gpu,
            fix=_LATE if waited else f"set it to false, join a cluster that has GPUs, or {_ASK}",
        )
    if not cpus:
        came = f"none came within {waited:g} s" if waited else "none is asked for"
        raise UserError(
            "resources.autoscale_timeout_s",
            f"no node of the cluster has a CPU for workers, and {came}",
            got=waited,
            fix=_LATE if waited else f"{_ASK}; resources.use_gpu must be true or false then",
        )
    if gpus_each > 1 and not each.num_gpus:
        raise UserError(
            "warmup.gpus_per_shard",
            "needs GPUs, and none are used",
            got=gpus_each,
            fix="leave it at 1 on the CPU",
        )
    if each.num_gpus > gpus:
        raise UserError(
            "warmup.gpus_per_shard",
            f"must fit the {gpus:g} GPUs of a node: a shard does not spread over two",
            got=gpus_each,
            fix=f"set it to at most {gpus:g}",
        )
    if each.num_cpus > cpus:
        raise UserError(
            "resources.cpus_per_worker",
            f"must fit the {cpus:g} CPUs of a node",
            got=config.cpus_per_worker,
            fix=f"set it to at most {cpus:g}",
        )
    offered = {name for node in nodes for name in node if name.startswith(_ACCELERATOR)}
    types = {name.removeprefix(_ACCELERATOR) for name in offered}
    wanted = each.accelerator_type if each.num_gpus else None
    if wanted and wanted not in types:
        raise UserError(
            "resources.accelerator_type",
            "must be on a node of the cluster",
            got=wanted,
            fix=f"types there: {', '.join(sorted(types)) or 'none'}; or null for any",
        )
