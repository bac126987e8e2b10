"""The places of the trained values in a weight: their copies, and their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.sharded import write_shard


class Layout(ABC):
    """The places of the trained values of one weight.

    The places on the device are a tensor of indices, which the layer keeps as a buffer. What is
    needed as plain numbers is here, so that no step waits for the device.

    Attributes:
        transposed: Whether the weight is stored as (I, O).
    """

    transposed: bool

    @property
    @abstractmethod
    def stored_shape(self) -> tuple[int, int]:
        """The shape of the stored weight: (O, I), or (I, O) if it is transposed."""

    @abstractmethod
    def make_indices(self) -> Tensor:
        """The indices of the values in the stored weight, int32, on the CPU."""

    @abstractmethod
    def make_kept_input(self) -> KeptInput:
        """What a layer keeps of its input, if it shares it with no other."""

    @abstractmethod
    def starts(self, kept_input: KeptInput) -> list[int]:
        """The places of the columns that the values need among those that are kept."""

    @abstractmethod
    def gather(self, weight: Tensor, indices: Tensor) -> Tensor:
        """A copy of the values of a stored weight at the indices."""

    @abstractmethod
    def scatter_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Writes values into a stored weight, rounded to its dtype."""

    @abstractmethod
    def scatter_shard_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Writes values into this process's part of a ``DTensor``; all processes call it."""

    @abstractmethod
    def gradient(
        self, grad_y: Tensor, kept: Tensor, starts: Sequence[int], indices: Tensor
    ) -> Tensor:
        """The gradient of the values.

        Args:
            grad_y: The gradient dy, (T, O).
            kept: The kept columns of x, (T, K), in the dtype of dy.
            starts: See :meth:`starts`.
            indices: The indices in the stored weight, on the device of dy.
        """


@dataclass(frozen=True)
class BlockLayout(Layout):
    """The places of chosen square blocks.

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

    @property
    def stored_shape(self) -> tuple[int, int]:
        """See :class:`Layout`."""
        return self.grid.out_features, self.grid.in_features

    def make_indices(self) -> Tensor:
        """The block indices in the grid of the stored weight, (M, 2)."""
        return torch.tensor(self.stored_indices, dtype=torch.int32)

    def make_kept_input(self) -> KeptInput:
        """The columns that some block uses."""
        in_features = self.stored_shape[0 if self.transposed else 1]
        return KeptInput(in_features, self.grid.block_size, self.cols)

    def starts(self, kept_input: KeptInput) -> list[int]:
        """The first kept column of each block."""
        return [kept_input.start(col) for col in self.cols]

    def gather(self, weight: Tensor, indices: Tensor) -> Tensor:
        """A copy (M, L, L) of the blocks."""
        return self.grid.gather(weight, indices)

    def scatter_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Writes the blocks (M, L, L)."""
        self.grid.scatter_(weight, indices, values)

    def scatter_shard_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Writes the blocks (M, L, L) into a shard."""
        write_shard(weight, indices, values, self.grid)

    def gradient(
        self, grad_y: Tensor, kept: Tensor, starts: Sequence[int], indices: Tensor
    ) -> Tensor:
        """The M block gradients, (M, L, L)."""
        size = self.grid.block_size
        return block_products(self.rows, starts, size, grad_y, kept, self.transposed)


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
