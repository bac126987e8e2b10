"""Resource arithmetic: pure functions of the config and what the cluster has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smt_ray.config.running import ResourcesConfig
from smt_ray.errors import UserError


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

    def options(self) -> dict[str, object]:
        """The keywords of ``.options()``."""
        chosen: dict[str, object] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.accelerator_type and self.num_gpus:
            chosen["accelerator_type"] = self.accelerator_type
        return chosen


def plan_processes(
    config: ResourcesConfig,
    num_at_once: int,
    cluster: Mapping[str, float],
    what: str,
    gpus_each: int = 1,
) -> ProcessResources:
    """What each of several processes gets, checked against the whole cluster.

    Args:
        config: The config's ``resources`` section.
        num_at_once: Processes that must run at the same time; 1 where they can take turns.
        cluster: ``ray.cluster_resources()``.
        what: The config key that sets ``num_at_once``, for the message.
        gpus_each: GPUs of a process, where there are any.

    Raises:
        UserError: They can never all be placed, so that Ray would wait for ever.
    """
    num_cpus, num_gpus = cluster.get("CPU", 0.0), int(cluster.get("GPU", 0))
    use_gpu = num_gpus > 0 if config.use_gpu == "auto" else config.use_gpu
    if use_gpu and not num_gpus:
        raise UserError(
            "resources.use_gpu",
            "needs a GPU, and the cluster has none",
            got=config.use_gpu,
            fix="set it to auto or false, or join a cluster that has GPUs",
        )
    if gpus_each > 1 and not use_gpu:
        raise UserError(
            "warmup.gpus_per_shard",
            "needs GPUs, and none are used",
            got=gpus_each,
            fix="leave it at 1 on the CPU",
        )
    if config.cpus_per_worker > num_cpus:
        raise UserError(
            "resources.cpus_per_worker",
            f"must fit the cluster's {num_cpus:g} CPUs",
            got=config.cpus_per_worker,
            fix=f"set it to at most {num_cpus:g}",
        )
    limits = {"CPUs": int(num_cpus // config.cpus_per_worker)}
    if use_gpu:
        limits["GPUs"] = num_gpus // gpus_each
    scarce = min(limits, key=lambda kind: limits[kind])
    if num_at_once > limits[scarce]:
        gpus = "a GPU" if gpus_each == 1 else f"{gpus_each} GPUs"
        each = gpus if scarce == "GPUs" else f"{config.cpus_per_worker:g} CPUs"
        there = num_gpus if scarce == "GPUs" else num_cpus
        raise UserError(
            what,
            f"{num_at_once} processes of {each} each must fit the cluster's {there:g} {scarce}",
            got=num_at_once,
            fix=f"set {what} to at most {limits[scarce]}, or change resources",
        )
    return ProcessResources(
        config.cpus_per_worker, gpus_each if use_gpu else 0, config.accelerator_type
    )
