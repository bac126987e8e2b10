"""What ZeRO exchanges in a step: gathered weights, and reduced gradients."""

from __future__ import annotations

from dataclasses import dataclass

from smt_ray.planning.time.cluster import Cluster


@dataclass(frozen=True)
class Exchange:
    """The exchange of a step.

    Under ZeRO-3 each micro-batch gathers all weights for the forward, for the backward and for the
    recomputation. With a second copy that a group of ranks shares
    (``zero_hpz_partition_size``), DeepSpeed makes the copy when it releases a gathered weight, and
    all later gathers are made within the group. It drops the copies of trained weights after each
    update. Those of frozen weights stay, so frozen weights are never gathered from all ranks again.

    Attributes:
        zero_stage: The ZeRO stage.
        frozen_bytes: The bytes of the frozen weights.
        trained_bytes: The bytes of the trained parameters, in the dtype of their gradients.
        num_micro_batches: The number of micro-batches of the step on a rank.
        checkpointing: Whether layers are computed again.
        group: The number of ranks that share a second copy; 1 for none.
    """

    zero_stage: int
    frozen_bytes: int
    trained_bytes: int
    num_micro_batches: int
    checkpointing: bool
    group: int = 1

    @property
    def num_gathers(self) -> int:
        """The number of times that a step gathers the weights."""
        if self.zero_stage < 3:
            return 0
        return self.num_micro_batches * (3 if self.checkpointing else 2)

    def gathered_bytes(self, cluster: Cluster) -> int:
        """The bytes that a GPU receives in a step to have all weights."""
        whole = self.frozen_bytes + self.trained_bytes
        total = self._num_far * whole * _others(cluster.num_gpus)
        total += self._num_near * whole * _others(self.group)
        if self.group > 1:  # only trained weights are gathered from all ranks
            total -= self.frozen_bytes * (_others(cluster.num_gpus) - _others(self.group))
        return round(total) if self.num_gathers else 0

    def gather_seconds(self, cluster: Cluster) -> float:
        """The seconds of gathering in a step."""
        if not self.num_gathers:
            return 0.0
        if self.group == 1:
            whole = self.frozen_bytes + self.trained_bytes
            return self.num_gathers * cluster.gather_seconds(whole)
        frozen = self.num_gathers * cluster.gather_seconds(self.frozen_bytes, self.group)
        first = cluster.gather_seconds(self.trained_bytes)
        later = self._num_near * cluster.gather_seconds(self.trained_bytes, self.group)
        return frozen + first + later

    def reduce_seconds(self, cluster: Cluster) -> float:
        """The seconds of reducing gradients, and of gathering parameters after the update."""
        # A reduction that leaves each rank its part takes as long as gathering the parts.
        once = cluster.gather_seconds(self.trained_bytes)
        times = {0: 2, 1: 2, 2: self.num_micro_batches + 1, 3: self.num_micro_batches}
        return times[self.zero_stage] * once

    @property
    def _num_far(self) -> int:
        """The number of gathers from all ranks."""
        return self.num_gathers if self.group == 1 else min(self.num_gathers, 1)

    @property
    def _num_near(self) -> int:
        """The number of gathers within the group."""
        return self.num_gathers - self._num_far


def _others(num_ranks: int) -> float:
    """The share of the weights that other ranks have."""
    return (num_ranks - 1) / num_ranks
