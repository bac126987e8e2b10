"""The linear layer of which only chosen blocks are trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.compiled import compiled_linear
from smt_ray.smt.layers.layout import BlockLayout
from smt_ray.smt.layers.partial import PartialLinear
from smt_ray.smt.linears import Shell, linear_shape


class SparseLinear(PartialLinear):
    """A linear layer of which M blocks of the weight are trained (paper section 3.2, snippet 6).

    Attributes:
        blocks: The trained blocks, (M, L, L).
        indices: The block indices (row, col) in the grid of the stored weight, (M, 2) int32.
        layout: The places of the blocks among outputs and inputs, as plain numbers.
    """

    layout: BlockLayout

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        indices: Tensor,
        block_size: int,
        dtype: torch.dtype | None = None,
    ) -> SparseLinear:
        """The sparse layer with the weight and the bias of a linear, which are not copied.

        Args:
            linear: A plain linear (:func:`~smt_ray.smt.linears.is_plain_linear`).
            indices: The distinct block indices (row, col) in the grid of the (O, I) weight, (M, 2)
                integers, on the CPU.
            block_size: The block size L, which divides both dimensions.
            dtype: The dtype of the blocks; see :class:`~smt_ray.smt.layers.partial.PartialLinear`.
        """
        shell, grid = Shell.of(linear), BlockGrid(*linear_shape(linear), block_size)
        layout = BlockLayout.from_indices(grid, indices, transposed=shell.transposed)
        weight, bias = (getattr(linear, name) for name in ("weight", "bias"))
        return cls(weight, bias, layout, shell, dtype).train(linear.training)

    @property
    def grid(self) -> BlockGrid:
        """The grid of the stored weight."""
        return self.layout.grid

    @property
    def block_size(self) -> int:
        """The side L of a block in elements."""
        return self.grid.block_size

    def forward(self, x: Tensor) -> Tensor:
        """Maps x (..., I) to (..., O)."""
        if torch.compiler.is_compiling():
            return compiled_linear(
                x, self.weight, self.bias, self.blocks, self.indices, self.layout, self.kept_input
            )
        return super().forward(x)

    def extra_repr(self) -> str:
        """The text that ``print(model)`` shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, block_size={self.block_size}, "
            f"num_blocks={len(self.layout.rows)}"
        )
