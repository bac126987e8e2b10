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
        num_gpus: 0 or 1.
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
    config: ResourcesConfig, num_processes: int, cluster: Mapping[str, float], what: str
) -> ProcessResources:
    """What each of several processes gets, checked against the whole cluster.

    Args:
        config: The config's ``resources`` section.
        num_processes: That must run at the same time.
        cluster: ``ray.cluster_resources()``.
        what: The config key that sets ``num_processes``, for the message.

    Raises:
        UserError: They can never all be placed, so that Ray would wait for ever.
    """
    num_gpus_there = int(cluster.get("GPU", 0))
    use_gpu = num_gpus_there > 0 if config.use_gpu == "auto" else config.use_gpu
    resources = ProcessResources(
        config.cpus_per_worker, 1 if use_gpu else 0, config.accelerator_type
    )
    if use_gpu and num_gpus_there < num_processes:
        raise UserError(
            what,
            f"{num_processes} processes need a GPU each, and the cluster has {num_gpus_there}",
            got=num_processes,
            fix=f"set {what} to at most {num_gpus_there}, or resources.use_gpu=false",
        )
    num_cpus_there = cluster.get("CPU", 0)
    if num_cpus_there < num_processes * config.cpus_per_worker:
        most = int(num_cpus_there // config.cpus_per_worker)
        raise UserError(
            what,
            f"{num_processes} processes of {config.cpus_per_worker:g} CPUs must fit the cluster's"
            f" {num_cpus_there:g}",
            got=num_processes,
            fix=f"set {what} to at most {most}, or lower resources.cpus_per_worker",
        )
    return resources
