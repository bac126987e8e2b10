"""The grid of square blocks of a weight, and the block sizes that a model allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from smt_ray.errors import UserError

Shapes = Mapping[str, tuple[int, int]]
"""Module name -> (out_features, in_features) of its weight."""


@dataclass(frozen=True)
class BlockGrid:
    """The grid of l x l blocks that tiles a weight (paper section 3.1, figure 2a).

    Attributes:
        out_features: The number O of rows of the weight, a multiple of ``block_size``.
        in_features: The number I of columns of the weight, a multiple of ``block_size``.
        block_size: The side L of a block in elements.
    """

    out_features: int
    in_features: int
    block_size: int

    def __post_init__(self) -> None:
        shape = (self.out_features, self.in_features)
        check_block_size({"the weight": shape}, self.block_size, field="block_size")

    @property
    def num_rows(self) -> int:
        """The number R of rows of blocks."""
        return self.out_features // self.block_size

    @property
    def num_cols(self) -> int:
        """The number C of columns of blocks."""
        return self.in_features // self.block_size

    @property
    def num_blocks(self) -> int:
        """The number R x C of blocks."""
        return self.num_rows * self.num_cols

    def transpose(self) -> BlockGrid:
        """The grid of the transposed weight."""
        return BlockGrid(self.in_features, self.out_features, self.block_size)

    def view(self, weight: Tensor) -> Tensor:
        """A view of a weight (O, I) as its blocks (R, C, L, L)."""
        size = self.block_size
        return weight.view(self.num_rows, size, self.num_cols, size).transpose(1, 2)

    def gather(self, weight: Tensor, indices: Tensor) -> Tensor:
        """A copy (M, L, L) of the blocks of a weight at ``indices`` (M, 2), each (row, col)."""
        rows, cols = indices.unbind(1)
        return self.view(weight)[rows, cols]

    def scatter_(self, weight: Tensor, indices: Tensor, blocks: Tensor) -> None:
        """Writes ``blocks`` (M, L, L) into a weight at ``indices`` (M, 2), in one indexed copy.

        The indices must be distinct. Blocks of another dtype are rounded to that of the weight.
        """
        rows, cols = indices.unbind(1)
        self.view(weight)[rows, cols] = blocks.to(weight.dtype)


def allowed_block_sizes(shapes: Shapes, multiple_of: int = 1) -> tuple[int, ...]:
    """The block sizes that divide every dimension of every weight, ascending.

    Args:
        shapes: The shapes of the weights.
        multiple_of: A number that all sizes are multiples of, such as a score table's block size.
    """
    if not shapes:
        raise UserError("target_modules", "must name at least one linear module", got=[])
    common = math.gcd(*(dimension for shape in shapes.values() for dimension in shape))
    steps = range(multiple_of, common + 1, multiple_of)
    return tuple(size for size in steps if common % size == 0)


def common_block_size(shapes: Shapes, limit: int = 256, multiple_of: int = 1) -> int:
    """The largest allowed block size up to ``limit``, which ``block_size: auto`` stands for.

    If all allowed sizes are larger, which only ``multiple_of`` can cause, it is the smallest.
    """
    sizes = allowed_block_sizes(shapes, multiple_of)
    return max((size for size in sizes if size <= limit), default=sizes[0])


def check_block_size(
    shapes: Shapes,
    block_size: int | str,
    field: str = "selection.block_size",
    multiple_of: int = 1,
) -> None:
    """Checks that a block size tiles every weight.

    Raises:
        UserError: It does not; the message names the module and the allowed sizes.
    """
    if not isinstance(block_size, int) or isinstance(block_size, bool) or block_size < 1:
        rule = "must be a positive whole number or auto"
    elif block_size % multiple_of:
        rule = f"must be a multiple of {multiple_of}, the block size of the score table"
    else:
        misfits = [name for name, (o, i) in shapes.items() if o % block_size or i % block_size]
        if not misfits:
            return
        rows, cols = shapes[misfits[0]]
        rule = f"must divide both dimensions of every weight; {misfits[0]} is {rows} x {cols}"
    sizes = ", ".join(map(str, allowed_block_sizes(shapes, multiple_of)))
    raise UserError(field, rule, got=block_size, fix=f"use one of {sizes}")


def resolve_block_size(
    shapes: Shapes,
    block_size: int | str,
    field: str = "selection.block_size",
    multiple_of: int = 1,
) -> int:
    """The common block size for ``auto``; any other size is checked."""
    if block_size == "auto":
        return common_block_size(shapes, multiple_of=multiple_of)
    check_block_size(shapes, block_size, field, multiple_of)
    return int(block_size)
