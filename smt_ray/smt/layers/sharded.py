"""Weights that are sharded over processes: they are recognised, and their blocks are written."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.smt.grid import BlockGrid


def is_dtensor(tensor: Tensor) -> bool:
    """Whether a tensor is a ``DTensor``, as under FSDP2 and tensor parallelism."""
    module = sys.modules.get("torch.distributed.tensor")  # without it, nobody has made one
    return module is not None and isinstance(tensor, module.DTensor)


def is_whole(weight: Tensor, shape: tuple[int, int]) -> bool:
    """Whether this process has all elements of a weight of a shape."""
    if is_dtensor(weight) or weight.shape != shape:
        return False
    return weight.is_meta or weight.untyped_storage().nbytes() > 0  # FSDP1 frees it after use


def check_whole(weight: Tensor, field: str) -> None:
    """Refuses a weight of which this process has only a part, before blocks are made from it.

    Args:
        weight: The weight of a linear.
        field: The name of the field in an error.

    Raises:
        UserError: The weight is sharded.
    """
    if is_dtensor(weight) or getattr(weight, "ds_id", None) is not None:
        raise UserError(
            field,
            "must not be sharded yet",
            got=type(weight).__name__ if is_dtensor(weight) else "a parameter of ZeRO-3",
            fix="apply the selection before fully_shard or deepspeed.initialize; with transformers'"
            " Trainer and ZeRO-3, load the model before you make TrainingArguments",
        )


def not_gathered(weight: Tensor) -> UserError:
    """The error for a layer that is used while its weight is sharded."""
    return UserError(
        "the weight of a sparse layer",
        "must be gathered while the layer is used",
        got=f"{type(weight).__name__} of shape {tuple(weight.shape)}",
        fix="call the model that FSDP or DeepSpeed returned; tensor parallelism is not supported",
    )


def write_shard(weight: Any, indices: Tensor, blocks: Any, grid: BlockGrid) -> None:
    """Writes blocks into this process's part of a ``DTensor``.

    All processes must call it, because blocks are gathered if they are sharded too.

    Args:
        weight: The ``DTensor``, (O, I), sharded by rows, by columns or not at all.
        indices: The block indices (row, col), (M, 2).
        blocks: The blocks, (M, L, L), whole or as a ``DTensor``.
        grid: The grid of the weight.
    """
    whole = blocks.full_tensor() if is_dtensor(blocks) else blocks
    local, size = weight.to_local(), grid.block_size
    rows, cols = (_own_range(weight, dimension) for dimension in (0, 1))
    for (row, col), block in zip(indices.tolist(), whole.detach(), strict=True):
        shared_rows = _overlap(rows, range(row * size, (row + 1) * size))
        shared_cols = _overlap(cols, range(col * size, (col + 1) * size))
        part = block[_within(shared_rows, row * size), _within(shared_cols, col * size)]
        target = local[_within(shared_rows, rows.start), _within(shared_cols, cols.start)]
        target.copy_(part.to(local.dtype))


def _own_range(weight: Any, dimension: int) -> range:
    """The rows (dimension 0) or columns (1) that this process has of a ``DTensor``."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = [
        Shard(0) if placement.is_shard(dimension) else Replicate()
        for placement in weight.placements
    ]
    numbers = torch.arange(weight.shape[dimension], device=weight.device)
    own = distribute_tensor(numbers, weight.device_mesh, placements, src_data_rank=None).to_local()
    return range(int(own[0]), int(own[-1]) + 1) if len(own) else range(0)


def _overlap(own: range, block: range) -> range:
    return range(max(own.start, block.start), min(own.stop, block.stop))


def _within(shared: range, start: int) -> slice:
    """The slice of shared rows or columns, counted from ``start``; empty if none is shared."""
    return slice(shared.start - start, shared.stop - start) if shared else slice(0)
