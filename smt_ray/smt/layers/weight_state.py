"""Whether a dense weight holds the current blocks of its layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_post_hook

from smt_ray.smt.layers.kept_input import version

_num_optimizer_steps = 0


def _count_optimizer_step(*_: Any) -> None:
    global _num_optimizer_steps
    _num_optimizer_steps += 1


# A fused optimizer changes parameters without a new version. So a step of any torch optimizer is
# the second sign that blocks may have changed.
register_optimizer_step_post_hook(_count_optimizer_step)


def place(tensor: Tensor) -> tuple[int, int]:
    """The identity of a tensor's storage, and the address of its first element."""
    return tensor.untyped_storage()._cdata, tensor.data_ptr()


class WeightState:
    """Knows whether a dense weight may lack the current blocks of its layer.

    Blocks change by an optimizer's step, by a change in place or by replacement, and the weight
    likewise. Then the blocks are written once. A weight that somebody else manages (FSDP, ZeRO-3,
    offloading, ``DataParallel``) may lose them at any time: it is gathered or copied again, into
    the same storage or into another, without a trace in it. Such a weight is recognised by its
    place: it is not the parameter that the layer was made with, or not in the same memory, or it
    has DeepSpeed's mark. It stays recognised.

    Args:
        weight: The dense weight, (O, I), which holds the blocks.
        blocks: The blocks, (M, L, L).
    """

    def __init__(self, weight: Tensor, blocks: Tensor) -> None:
        self._is_managed = False
        self._written: tuple[Any, ...] | None = None
        self.claim(weight)
        self.mark_written(weight, blocks)

    def claim(self, weight: Tensor) -> None:
        """Takes the weight's present place as its own, after the layer itself was moved."""
        if not self._is_managed:
            # The weak reference keeps another storage from getting the same address as this one.
            self._storage = StorageWeakRef(weight.untyped_storage())
            self._home, self._place = weight, place(weight)

    def is_managed(self, weight: Tensor) -> bool:
        """Whether somebody else decides what the weight holds, so that blocks are always written.

        Args:
            weight: The weight that the layer has now.
        """
        self._is_managed = (
            self._is_managed
            or weight is not self._home
            or hasattr(weight, "ds_id")
            or place(weight) != self._place
        )
        return self._is_managed

    def mark_written(self, weight: Tensor, blocks: Tensor) -> None:
        """Notes that the weight holds the blocks as they are now."""
        self._written = self._versions(weight, blocks)

    def has_changed(self, weight: Tensor, blocks: Tensor) -> bool:
        """Whether the blocks or the weight may have changed since the blocks were written."""
        if self._written is None:
            return True
        old_blocks, old_weight, *old = self._written
        blocks, weight, *new = self._versions(weight, blocks)
        return blocks is not old_blocks or weight is not old_weight or new != old

    def __getstate__(self) -> dict[str, Any]:
        return {"_is_managed": self._is_managed, "_written": None}  # a copy has another weight

    @staticmethod
    def _versions(weight: Tensor, blocks: Tensor) -> tuple[Any, ...]:
        # The objects themselves: a parameter may be replaced by load_state_dict(assign=True), and
        # the new one may have the id of the old one.
        return blocks, weight, version(blocks), version(weight), _num_optimizer_steps
