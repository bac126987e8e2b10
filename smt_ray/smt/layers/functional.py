"""A linear map of which only some blocks are trained: its forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from smt_ray.smt.layers.layout import Layout
from smt_ray.smt.layers.weight_state import place
from smt_ray.smt.linears import as_dense


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
        layout: Layout,
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
            layout: The places of the blocks.
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
                ctx.layout.scatter_(weight.data, ctx.indices, blocks.data)
            dense = as_dense(weight.to(grad_y.dtype), ctx.layout.transposed)
            grad_x = product(grad_y, dense).to(ctx.x_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_y.sum(0)
        if ctx.needs_input_grad[3]:
            kept = kept.to(grad_y.dtype)
            grad_blocks = ctx.layout.gradient(grad_y, kept, ctx.starts, ctx.indices)
            grad_blocks = grad_blocks.to(blocks.dtype)
        return grad_x, None, grad_bias, grad_blocks, None, None, None, None, None


def product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices in their dtype, also if backward runs inside autocast."""
    return torch.mm(left, right, out=left.new_empty(left.shape[0], right.shape[1]))
