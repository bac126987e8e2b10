"""The sparse linear map for ``torch.compile``: operators that a graph holds as a whole.

They compute what :class:`~smt_ray.smt.layers.functional.SparseLinearFunction` computes. A compiled
graph cannot ask in Python whether the weight holds the current blocks, so both operators that read
the weight write the blocks first. The weight is not declared as changed: outside its blocks it is
constant, and inside it only caches them, so no other operator of a graph depends on the write. Its
version stays the same too, so several forwards may come before one backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.functional import product
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.layout import BlockLayout, block_products
from smt_ray.smt.linears import as_dense


def compiled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    blocks: Tensor,
    indices: Tensor,
    layout: BlockLayout,
    kept_input: KeptInput,
) -> Tensor:
    """Maps x (..., I) to (..., O) without a graph break; the gradients are those of equation 2.

    Args:
        x: The input.
        weight: The frozen weight as it is stored: (O, I), or (I, O).
        bias: The bias, (O,), or None.
        blocks: The trained blocks, (M, L, L).
        indices: The block indices in the grid of the stored weight, (M, 2).
        layout: The same places as plain numbers.
        kept_input: What is kept of the input for backward.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    elif x.dtype != weight.dtype:
        raise TypeError(f"the input must have the weight's dtype {weight.dtype}; got {x.dtype}")
    kept = None
    if torch.is_grad_enabled() and blocks.requires_grad:
        kept = kept_input.select(x, x.dtype)
    starts = [kept_input.start(col) for col in layout.cols]
    y: Tensor = _linear(
        x.reshape(-1, x.shape[-1]),
        weight,
        bias,
        blocks,
        indices,
        kept,
        list(layout.rows),
        starts,
        layout.grid.block_size,
        layout.transposed,
    )
    return y.view(*x.shape[:-1], y.shape[-1])


@torch.library.custom_op(
    "smt_ray::linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor blocks, Tensor indices, Tensor? kept,"
    " int[] rows, int[] starts, int block_size, bool transposed) -> Tensor",
)
def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    blocks: Tensor,
    indices: Tensor,
    kept: Tensor | None,
    rows: Sequence[int],
    starts: Sequence[int],
    block_size: int,
    transposed: bool,
) -> Tensor:
    """Y (T, O) from x (T, I); the arguments from ``kept`` on are for backward."""
    _write(weight, blocks, indices, block_size)
    dense = as_dense(weight.to(x.dtype), transposed)
    return F.linear(x, dense, None if bias is None else bias.to(x.dtype))


@torch.library.custom_op(
    "smt_ray::linear_input_gradient",
    mutates_args=(),
    schema="(Tensor grad_y, Tensor weight, Tensor blocks, Tensor indices, int block_size,"
    " bool transposed) -> Tensor",
)
def _input_gradient(
    grad_y: Tensor,
    weight: Tensor,
    blocks: Tensor,
    indices: Tensor,
    block_size: int,
    transposed: bool,
) -> Tensor:
    """The gradient of x (T, I) from that of y (T, O)."""
    _write(weight, blocks, indices, block_size)
    return product(grad_y, as_dense(weight.to(grad_y.dtype), transposed))


@torch.library.custom_op(
    "smt_ray::block_gradients",
    mutates_args=(),
    schema="(Tensor grad_y, Tensor kept, int[] rows, int[] starts, int block_size,"
    " bool transposed) -> Tensor",
)
def _block_gradients(
    grad_y: Tensor,
    kept: Tensor,
    rows: Sequence[int],
    starts: Sequence[int],
    block_size: int,
    transposed: bool,
) -> Tensor:
    """The gradients of the blocks (M, L, L) from that of y and the kept columns of x (T, K)."""
    return block_products(rows, starts, block_size, grad_y, kept, transposed)


def _write(weight: Tensor, blocks: Tensor, indices: Tensor, block_size: int) -> None:
    grid = BlockGrid(weight.shape[0], weight.shape[1], block_size)
    grid.scatter_(weight.data, indices, blocks.data)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], as_dense(weight, others[-1]).shape[0])


@_input_gradient.register_fake
def _(grad_y: Tensor, weight: Tensor, *others: Any) -> Tensor:
    return grad_y.new_empty(grad_y.shape[0], as_dense(weight, others[-1]).shape[1])


@_block_gradients.register_fake
def _(grad_y: Tensor, kept: Tensor, rows: Sequence[int], *others: Any) -> Tensor:
    _, block_size, _ = others
    return grad_y.new_empty(len(rows), block_size, block_size)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, weight, _, blocks, indices, kept, *places, block_size, transposed = inputs
    ctx.save_for_backward(weight, blocks, indices, kept)
    ctx.places, ctx.shape = places, (block_size, transposed)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    weight, blocks, indices, kept = ctx.saved_tensors
    grad_x = grad_bias = grad_blocks = None
    if ctx.needs_input_grad[0]:
        grad_x = _input_gradient(grad_y, weight, blocks, indices, *ctx.shape)
    if ctx.needs_input_grad[2]:
        grad_bias = grad_y.sum(0)
    if ctx.needs_input_grad[3]:
        grad_blocks = _block_gradients(grad_y, kept, *ctx.places, *ctx.shape)
        grad_blocks = grad_blocks.to(blocks.dtype)
    return grad_x, None, grad_bias, grad_blocks, None, None, None, None, None, None


_linear.register_autograd(_backward, setup_context=_save)
