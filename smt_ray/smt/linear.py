"""The linear layer whose chosen blocks are trained."""

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


# A fused optimizer writes parameters without raising their version, so versions alone would miss
# its steps; that some torch optimizer has stepped is the other sign that blocks may have changed.
register_optimizer_step_post_hook(_count_optimizer_step)


class SparseLinear(nn.Module):
    """A linear layer of which M blocks of the weight are trained (paper section 3.2, snippet 6).

    The dense ``weight`` holds the current blocks, so forward is the dense product. An optimizer
    sees only ``blocks``; before a forward they are written into the weight whenever they may have
    changed. Where they are updated through ``.data`` by something that is not a torch optimizer,
    call :meth:`refresh`.

    Attributes:
        weight: (O, I), frozen, holding the blocks.
        bias: (O,), frozen, or None.
        blocks: The trained blocks, (M, L, L), in the weight's dtype and on its device.
        indices: Block indices (row, col), (M, 2) int32: a buffer, saved with the state and
            compared when a state is loaded.
        original_blocks: The blocks before training, (M, L, L) on the CPU; no buffer.
        kept_input: What is kept of the input for backward; :meth:`share_input` sets it.
        rewrite: Write the blocks before every forward and backward, as ZeRO-3 needs, where the
            gathered weight is fresh each time.
    """

    weight: Tensor
    bias: Tensor | None
    indices: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor | None, indices: Tensor, block_size: int
    ) -> None:
        """Takes over a weight (O, I) and a bias, freezes them and copies the blocks out.

        Args:
            weight: The dense weight, a Parameter; kept, not copied.
            bias: (O,) or None.
            indices: Distinct block indices (row, col), (M, 2) integers, on the CPU.
            block_size: L, which divides both dimensions.
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
        """Makes the sparse layer around a linear's own weight and bias."""
        layer = cls(linear.weight, linear.bias, indices, block_size)
        return layer.train(linear.training)

    @property
    def block_size(self) -> int:
        """L, side of a block in elements."""
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
        """Keeps what layers with the same input keep together.

        Args:
            kept_input: Of all of them; it holds the columns of this layer's blocks too.
        """
        self.kept_input = kept_input
        self._starts = [kept_input.start(col) for col in self.layout.cols]

    def refresh(self) -> None:
        """Writes the blocks into the weight, unseen by autograd."""
        self.grid.scatter_(self.weight.data, self.indices, self.blocks.data)
        self._written = self._state()

    def merge(self) -> nn.Linear:
        """The tuned linear, around this layer's weight; this layer is used up."""
        self.refresh()
        return self._as_linear()

    def unmerge(self) -> nn.Linear:
        """The linear as it was before, bit for bit, around this layer's weight; likewise."""
        original = self.original_blocks.to(self.weight.device)
        self.grid.scatter_(self.weight.data, self.indices, original)
        return self._as_linear()

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
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
        # Objects, not ids: a parameter may be replaced (load_state_dict(assign=True)).
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
        # Blocks loaded to other places than they were trained at would be nonsense, in silence.
        stored = state_dict.get(f"{prefix}indices")
        if stored is not None and stored.tolist() != [
            list(pair) for pair in zip(self.layout.rows, self.layout.cols, strict=True)
        ]:
            error_messages: list[str] = args[-1]
            error_messages.append(f"{prefix}indices: the state is of another selection of blocks")
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
