"""The delta form of sparse matrix tuning: a frozen linear, and the difference of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.layout import BlockLayout, block_products


class BlockDelta(nn.Module):
    """Adds what the tuned blocks change to the output of a frozen linear.

    For a linear y = x W^T + b with tuned blocks B and those of W at their places, B0,

        y = x W^T + b + x (B - B0 at their places, zero elsewhere)^T

    The result is that of a weight that holds B. But W is never read and never written, so it may be
    quantised, sharded by FSDP or ZeRO-3, compiled, or shared by several adapters, and the map is
    that of W again as soon as nothing is added. The gradients are those of
    :class:`~smt_ray.smt.layers.functional.SparseLinearFunction`, and so are the trained values.

    Attributes:
        blocks: The trained blocks B, (M, L, L), of the (O, I) weight.
        indices: Their block indices (row, col), (M, 2) int32: a buffer that is saved with the
            blocks and compared when a state is loaded.
        base_blocks: B0, (M, L, L): a buffer that is not saved.
        layout: The same places as plain numbers.
    """

    indices: Tensor
    base_blocks: Tensor

    def __init__(
        self,
        base_blocks: Tensor,
        indices: Tensor,
        shape: tuple[int, int],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Starts with B = B0, so that the difference is zero.

        Args:
            base_blocks: The blocks of the base weight, (M, L, L), on the device of the weight.
            indices: Their distinct block indices (row, col), (M, 2) integers.
            shape: The (out_features, in_features) of the weight.
            dtype: The dtype of B; by default float32, or that of B0 if it is wider.
        """
        super().__init__()
        size = base_blocks.shape[1]
        self.layout = BlockLayout.from_indices(BlockGrid(*shape, size), indices)
        wide = torch.promote_types(base_blocks.dtype, torch.float32)
        self.blocks = nn.Parameter(base_blocks.detach().to(dtype or wide, copy=True))
        self.register_buffer("indices", indices.to(base_blocks.device, torch.int32))
        self.register_buffer("base_blocks", base_blocks.detach(), persistent=False)
        self.share_input(KeptInput(shape[1], size, self.layout.cols))

    @property
    def in_features(self) -> int:
        """The number I of input features."""
        return self.layout.grid.in_features

    @property
    def block_size(self) -> int:
        """The side L of a block in elements."""
        return self.layout.grid.block_size

    @property
    def difference(self) -> Tensor:
        """B - B0, (M, L, L), in the wider dtype of both."""
        return self.blocks - self.base_blocks

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds the change to the output of the linear.

        Args:
            x: The input of the linear, (..., I).
            y: Its output, (..., O).

        Returns:
            The output of the tuned linear, (..., O), in the dtype of y.
        """
        if torch.compiler.is_compiling():
            return self._traceable(x, y)
        result: Tensor = BlockDeltaFunction.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, self.in_features),
            y.reshape(-1, y.shape[-1]),
            self.blocks,
            self.base_blocks,
            self.layout,
            partial(self.kept_input.of, x),
            self._starts,
        )
        return result.view_as(y)

    def share_input(self, kept_input: KeptInput) -> None:
        """Makes layers with the same input share what they keep of it.

        Args:
            kept_input: The shared object, which has the columns of these blocks too.
        """
        self.kept_input = kept_input
        self._starts = [kept_input.start(col) for col in self.layout.cols]

    def extra_repr(self) -> str:
        """The text that ``print(model)`` shows."""
        return f"block_size={self.block_size}, num_blocks={len(self.layout.rows)}"

    def _traceable(self, x: Tensor, y: Tensor) -> Tensor:
        """The same as :meth:`forward`, in operators that ``torch.compile`` can trace."""
        num_blocks, size = len(self.layout.rows), self.block_size
        rows, cols = (
            (self.indices[:, i : i + 1].long() * size + torch.arange(size, device=x.device)).view(
                -1
            )
            for i in (0, 1)
        )
        inputs = x.reshape(-1, self.in_features).index_select(1, cols).to(y.dtype)
        inputs = inputs.view(-1, num_blocks, size).transpose(0, 1)
        added = torch.bmm(inputs, self.difference.to(y.dtype).mT)  # (M, T, L)
        added = added.transpose(0, 1).reshape(-1, num_blocks * size).to(y.dtype)
        return y.view(-1, y.shape[-1]).index_add(1, rows, added).view_as(y)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Loading blocks to other places than those they were trained at would be a silent error.
        stored = state_dict.get(f"{prefix}indices")
        if stored is not None and stored.tolist() != self.layout.dense_indices.tolist():
            error_messages: list[str] = args[-1]
            error_messages.append(
                f"{prefix}indices: the state belongs to another selection of blocks"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class BlockDeltaFunction(torch.autograd.Function):
    """y + x D^T, where D is zero outside M blocks, whose values are B - B0.

    With dy the gradient of the result, r_m the rows and c_m the columns of block m,

        y[:, r_m] += x[:, c_m] (B_m - B0_m)^T     and    dx[:, c_m] = sum of dy[:, r_m] (B_m - B0_m)

    Block gradients are dB_m = dy[:, r_m]^T x[:, c_m], as in equation 2 of the paper.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        blocks: Tensor,
        base_blocks: Tensor,
        layout: BlockLayout,
        keep: Any,
        starts: Sequence[int],
    ) -> Tensor:
        """Computes the result, (T, O), and saves what backward needs.

        Args:
            ctx: Autograd's context.
            x: The input, (T, I).
            y: The output of the linear, (T, O).
            blocks: The trained blocks B, (M, L, L).
            base_blocks: B0, (M, L, L).
            layout: The places of the blocks.
            keep: A function that returns the columns of x to keep for backward, (T, K), in a dtype.
            starts: The first column of each block in the kept columns.
        """
        size, kept = layout.grid.block_size, keep(y.dtype).to(y.dtype)
        changes, result = (blocks - base_blocks).to(y.dtype), y.clone()
        for change, row, start in zip(changes, layout.rows, starts, strict=True):
            outputs = result[:, row * size : (row + 1) * size]
            torch.addmm(outputs, kept[:, start : start + size], change.t(), out=outputs)
        # The kept columns are only needed for the gradients of the blocks.
        ctx.save_for_backward(blocks, base_blocks, kept if ctx.needs_input_grad[2] else None)
        ctx.layout, ctx.starts, ctx.x_like = layout, starts, (x.shape, x.dtype)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of x (T, I), y (T, O) and B (M, L, L), if they are needed."""
        blocks, base_blocks, kept = ctx.saved_tensors
        layout, size = ctx.layout, ctx.layout.grid.block_size
        grad_x = grad_blocks = None
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.x_like
            grad_x = grad_y.new_zeros(shape)
            changes = (blocks - base_blocks).to(grad_y.dtype)
            for change, row, col in zip(changes, layout.rows, layout.cols, strict=True):
                inputs = grad_x[:, col * size : (col + 1) * size]
                torch.addmm(inputs, grad_y[:, row * size : (row + 1) * size], change, out=inputs)
            grad_x = grad_x.to(dtype)
        if ctx.needs_input_grad[2]:
            grad_blocks = block_products(
                layout.rows, ctx.starts, size, grad_y, kept.to(grad_y.dtype), False
            ).to(blocks.dtype)
        return grad_x, grad_y, grad_blocks, None, None, None, None
