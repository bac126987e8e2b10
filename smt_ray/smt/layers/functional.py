"""A linear map of which only some blocks are trained: its forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.weight_state import place
from smt_ray.smt.linears import as_dense


@dataclass(frozen=True)
class BlockLayout:
    """The places of the chosen blocks, as plain numbers, so that no step waits for the device.

    Attributes:
        grid: The grid of the stored weight: (O, I), or (I, O) if it is transposed.
        rows: The block row of each of the M blocks, among the outputs.
        cols: The block column of each of the M blocks, among the inputs.
        transposed: Whether the weight is stored as (I, O).
    """

    grid: BlockGrid
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    transposed: bool = False

    @classmethod
    def from_indices(
        cls, grid: BlockGrid, indices: Tensor, *, transposed: bool = False
    ) -> BlockLayout:
        """Reads the layout from block indices.

        Args:
            grid: The grid of the weight, (O, I).
            indices: The block indices (row, col) in that grid, (M, 2).
            transposed: Whether the weight is stored as (I, O).
        """
        pairs: list[tuple[int, int]] = [(row, col) for row, col in indices.tolist()]
        assert len(set(pairs)) == len(pairs), "block indices must be distinct"
        assert all(0 <= r < grid.num_rows and 0 <= c < grid.num_cols for r, c in pairs)
        rows, cols = tuple(row for row, _ in pairs), tuple(col for _, col in pairs)
        return cls(grid.transpose() if transposed else grid, rows, cols, transposed)

    @property
    def dense_indices(self) -> Tensor:
        """The block indices (row, col) in the grid of the (O, I) weight, (M, 2) int32."""
        return torch.tensor([self.rows, self.cols], dtype=torch.int32).t()

    @property
    def stored_indices(self) -> list[list[int]]:
        """The block indices in the grid of the stored weight, (M, 2)."""
        first, second = (self.cols, self.rows) if self.transposed else (self.rows, self.cols)
        return [list(pair) for pair in zip(first, second, strict=True)]


class SparseLinearFunction(torch.autograd.Function):
    """y = x W^T + b, trained in M blocks of W (paper sections 3.1 and 3.2, equation 2).

    With x (T, I), W (O, I), y (T, O) and dy the gradient of y, the dense products are
    dx = dy W and dW = dy^T x. Block m holds the rows r_m and the columns c_m of W, each a run of L.
    Element (i, j) of dW sums dy[t, i] x[t, j] over t and no other rows or columns enter it, so

        dx      = dy W                                       (T, I), dense: all of W acts on x
        dB_m    = dy[:, r_m]^T x[:, c_m]                     (L, L), M of them: T L^2 each
        db      = sum of dy over T                           (O,), when the bias is trained at all

    W already holds the blocks, so forward is one dense product, exactly that of ``nn.Linear``. (The
    bias is part of it, since adding it afterwards would round differently.) Backward only needs the
    columns of x that some block uses.

    GPT-2 stores V = W^T, (I, O). Its blocks are those of V, dB_m = x[:, c_m]^T dy[:, r_m].
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        blocks: Tensor,
        indices: Tensor,
        layout: BlockLayout,
        keep: Callable[[torch.dtype], Tensor],
        starts: Sequence[int],
        is_managed: bool,
    ) -> Tensor:
        """Computes y and saves what backward needs.

        Args:
            ctx: Autograd's context.
            x: The input, (T, I).
            weight: The frozen weight W, (O, I), or V, (I, O), which holds the blocks. It must be
                the Parameter itself and not a view, since ZeRO-3 replaces the data of the Parameter
                between forward and backward.
            bias: The bias b, (O,), or None.
            blocks: The trained blocks, (M, L, L), perhaps in a wider dtype than the weight. They
                are saved to be written again, and so that autograd notices an in-place change
                between forward and backward.
            indices: The block indices in the grid of the stored weight, (M, 2), on its device.
            layout: The same places as plain numbers.
            keep: A function that returns the columns of x to keep for backward, (T, K), in a dtype.
            starts: The first column of each block in the kept columns.
            is_managed: Whether the weight may be gathered again before backward, so that the blocks
                are written into it again. They also are if the weight is in another place by then.

        Returns:
            y, (T, O); under autocast in the same dtype as that of ``nn.Linear``.
        """
        y = F.linear(x, as_dense(weight, layout.transposed), bias)
        kept = keep(y.dtype) if ctx.needs_input_grad[3] else None
        ctx.save_for_backward(weight, blocks, kept)
        ctx.indices, ctx.layout, ctx.starts = indices, layout, starts
        ctx.place = None if is_managed else place(weight)
        ctx.x_dtype = x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """Computes dx (T, I), db (O,) and dB (M, L, L), if they are needed."""
        weight, blocks, kept = ctx.saved_tensors
        grad_x = grad_bias = grad_blocks = None
        if ctx.needs_input_grad[0]:
            if ctx.place is None or ctx.place != place(weight):
                ctx.layout.grid.scatter_(weight.data, ctx.indices, blocks.data)
            dense = as_dense(weight.to(grad_y.dtype), ctx.layout.transposed)
            grad_x = product(grad_y, dense).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_y.sum(0)
        if ctx.needs_input_grad[3]:
            grad_blocks = block_products(
                ctx.layout.rows,
                ctx.starts,
                ctx.layout.grid.block_size,
                grad_y,
                kept.to(grad_y.dtype),
                ctx.layout.transposed,
            ).to(blocks.dtype)
        return grad_x, None, grad_bias, grad_blocks, None, None, None, None, None


def product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices in their dtype, also if backward runs inside autocast."""
    return torch.mm(left, right, out=left.new_empty(left.shape[0], right.shape[1]))


def block_products(
    rows: Sequence[int],
    starts: Sequence[int],
    block_size: int,
    grad_y: Tensor,
    kept: Tensor,
    transposed: bool,
) -> Tensor:
    """The M block gradients (M, L, L) from dy (T, O) and the kept columns of x (T, K).

    There is one product for each block, on strided slices and in place, so no operand is copied.

    Args:
        rows: The block row of each block.
        starts: The first column of each block in the kept columns.
        block_size: The block size L.
        grad_y: The gradient dy.
        kept: The kept columns of x, in the dtype of dy.
        transposed: Whether the blocks are those of a weight that is stored as (I, O).
    """
    gradients = grad_y.new_empty(len(starts), block_size, block_size)
    for gradient, row, start in zip(gradients, rows, starts, strict=True):
        outputs = grad_y[:, row * block_size : (row + 1) * block_size]
        inputs = kept[:, start : start + block_size]
        first, second = (inputs, outputs) if transposed else (outputs, inputs)
        torch.mm(first.t(), second, out=gradient)
    return gradients
