"""The linear layer of which only chosen blocks are trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from smt_ray.smt.functional import BlockLayout, SparseLinearFunction
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.kept_input import KeptInput, version

_num_optimizer_steps = 0


def _count_optimizer_step(*_: Any) -> None:
    global _num_optimizer_steps
    _num_optimizer_steps += 1


# A fused optimizer changes parameters without a new version. So a step of any torch optimizer is
# the second sign that blocks may have changed.
register_optimizer_step_post_hook(_count_optimizer_step)


class SparseLinear(nn.Module):
    """A linear layer of which M blocks of the weight are trained (paper section 3.2, snippet 6).

    The dense ``weight`` holds the current blocks, so forward is the dense product. An optimizer
    only gets ``blocks``. Before a forward they are written into the weight if they may have
    changed. After a change through ``.data`` by anything but a torch optimizer, :meth:`refresh`
    must be called.

    Attributes:
        weight: The frozen weight, (O, I), which holds the blocks.
        bias: The frozen bias, (O,), or None.
        blocks: The trained blocks, (M, L, L), in the weight's dtype and on its device.
        indices: The block indices (row, col), (M, 2) int32. They are a buffer, which is saved with
            the state and compared when a state is loaded.
        original_blocks: The blocks before training, (M, L, L) on the CPU; not a buffer.
        kept_input: The part of the input that is kept for backward; :meth:`share_input` sets it.
        rewrite: Whether the blocks are written before every forward and backward, which ZeRO-3
            needs because it gathers the weight again each time.
    """

    weight: Tensor
    bias: Tensor | None
    indices: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, indices: Tensor, block_size: int
    ) -> None:
        """Freezes a weight and a bias, and makes the blocks.

        Args:
            weight: The dense weight, a Parameter (O, I), which is not copied.
            bias: The bias, (O,), or None.
            indices: The distinct block indices (row, col), (M, 2) integers, on the CPU.
            block_size: The block size L, which divides both dimensions.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.grid = BlockGrid(self.out_features, self.in_features, block_size)
        self.layout = BlockLayout.from_indices(self.grid, indices)
        self.weight = weight.requires_grad_(False)
        self.bias = None if bias is None else bias.requires_grad_(False)
        self.register_buffer("indices", indices.to(weight.device, torch.int32))
        blocks = self.grid.gather(weight.detach(), self.indices)
        self.original_blocks = blocks.clone() if blocks.is_meta else blocks.to("cpu", copy=True)
        self.blocks = nn.Parameter(blocks)
        self.share_input(KeptInput(self.in_features, block_size, self.layout.cols))
        self.rewrite = False
        self._written = self._state()

    @classmethod
    def from_linear(cls, linear: nn.Linear, indices: Tensor, block_size: int) -> SparseLinear:
        """The sparse layer with the weight and the bias of a linear."""
        layer = cls(linear.weight, linear.bias, indices, block_size)
        return layer.train(linear.training)

    @property
    def block_size(self) -> int:
        """The side L of a block in elements."""
        return self.grid.block_size

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., I) to (..., O)."""
        if self.rewrite or self._is_stale():
            self.refresh()
        recording = torch.is_grad_enabled() and (x.requires_grad or self.blocks.requires_grad)
        if not recording:
            return F.linear(x, self.weight, self.bias)
        y: Tensor = SparseLinearFunction.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, self.in_features),
            self.weight,
            self.bias,
            self.blocks,
            self.indices,
            self.layout,
            partial(self.kept_input.of, x),
            self._starts,
            self.rewrite,
        )
        return y.view(*x.shape[:-1], self.out_features)

    def share_input(self, kept_input: KeptInput) -> None:
        """Makes layers with the same input share what they keep of it.

        Args:
            kept_input: The shared object, which has the columns of this layer's blocks too.
        """
        self.kept_input = kept_input
        self._starts = [kept_input.start(col) for col in self.layout.cols]

    def refresh(self) -> None:
        """Writes the blocks into the weight, without autograd."""
        self.grid.scatter_(self.weight.data, self.indices, self.blocks.data)
        self._written = self._state()

    def merge(self) -> nn.Linear:
        """The tuned linear with this layer's weight; this layer cannot be used afterwards."""
        self.refresh()
        return self._as_linear()

    def unmerge(self) -> nn.Linear:
        """The original linear, bit for bit; this layer cannot be used afterwards."""
        original = self.original_blocks.to(self.weight.device)
        self.grid.scatter_(self.weight.data, self.indices, original)
        return self._as_linear()

    def extra_repr(self) -> str:
        """The text that ``print(model)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, block_size={self.block_size}, "
            f"num_blocks={len(self.layout.rows)}"
        )

    def _as_linear(self) -> nn.Linear:
        bias = self.bias is not None
        linear = nn.Linear(self.in_features, self.out_features, bias=bias, device="meta")
        linear.weight, linear.bias = self.weight, self.bias  # type: ignore[assignment]
        return linear.train(self.training)

    def _state(self) -> tuple[object, ...]:
        # The objects themselves: a parameter may be replaced by load_state_dict(assign=True), and
        # the new one may have the id of the old one.
        blocks, weight = self.blocks, self.weight
        return blocks, version(blocks), weight, version(weight), _num_optimizer_steps

    def _is_stale(self) -> bool:
        blocks, blocks_version, weight, weight_version, num_steps = self._written
        return (
            blocks is not self.blocks
            or weight is not self.weight
            or (blocks_version, weight_version, num_steps)
            != (version(self.blocks), version(self.weight), _num_optimizer_steps)
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Loading blocks to other places than those they were trained at would be a silent error.
        stored = state_dict.get(f"{prefix}indices")
        if stored is not None and stored.tolist() != [
            list(pair) for pair in zip(self.layout.rows, self.layout.cols, strict=True)
        ]:
            error_messages: list[str] = args[-1]
            error_messages.append(
                f"{prefix}indices: the state belongs to another selection of blocks"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
