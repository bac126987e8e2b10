"""The GPUs of a run, and how long they take to compute and to exchange."""

from __future__ import annotations

from dataclasses import dataclass

from smt_ray.planning.time.gpus import GpuType

DEFAULT_GPUS_PER_NODE = 8
DEFAULT_NETWORK_GBPS = 400.0
DEFAULT_MFU = 0.4
"""The share of the peak that trainings of dense models usually reach."""


@dataclass(frozen=True)
class Cluster:
    """Nodes with the same number of GPUs.

    Attributes:
        gpu: The type of the GPUs.
        num_gpus: The number of all GPUs.
        gpus_per_node: The number of GPUs of a full node.
        network_gbps: The gigabits per second that a node receives from others, by all of its
            network cards together.
        mfu: The share of the stated peak that products reach (model FLOPs utilisation).
    """

    gpu: GpuType
    num_gpus: int
    gpus_per_node: int = DEFAULT_GPUS_PER_NODE
    network_gbps: float = DEFAULT_NETWORK_GBPS
    mfu: float = DEFAULT_MFU

    @property
    def num_local(self) -> int:
        """The number of GPUs of a node that are used."""
        return min(self.num_gpus, self.gpus_per_node)

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return -(-self.num_gpus // self.gpus_per_node)

    def compute_seconds(self, flops: float, weight_bytes: float, dtype: str) -> float:
        """The time of some products: of their FLOPs or, if that is longer, of reading weights."""
        return max(flops / (self.gpu.peak(dtype) * self.mfu), weight_bytes / self.gpu.bandwidth)

    def gather_seconds(self, num_bytes: float, group: int | None = None) -> float:
        """The time until every GPU of a group has bytes of which each has an equal part.

        The bytes come into a node once, over its network, and go from GPU to GPU within it.

        Args:
            num_bytes: The number of bytes of all parts together.
            group: The number of GPUs of the group; None for all.
        """
        size = self.num_gpus if group is None else min(group, self.num_gpus)
        num_nodes = -(-size // self.gpus_per_node)
        within = num_bytes * (size - 1) / size / self.gpu.link
        across = num_bytes * (num_nodes - 1) / num_nodes / (self.network_gbps * 1e9 / 8)
        return max(within, across)
