"""Scores without gradients, for comparison with the gradient scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from smt_ray.smt.grid import BlockGrid


def random_scores(
    shapes: Mapping[str, tuple[int, int]], block_size: int, seed: int
) -> dict[str, Tensor]:
    """A random score for each block, which is a function of the seed.

    Args:
        shapes: Module name -> (out_features, in_features).
        block_size: The block size L, which divides all of them.
        seed: The seed.

    Returns:
        Module name -> scores, (R, C) float64 in [0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(
            out_features // block_size,
            in_features // block_size,
            generator=generator,
            dtype=torch.float64,
        )
        for name, (out_features, in_features) in shapes.items()
    }


def magnitude_scores(weights: Mapping[str, Tensor], block_size: int) -> dict[str, Tensor]:
    """The mean absolute weight of each block.

    Args:
        weights: Module name -> weight, (O, I), in any floating dtype.
        block_size: The block size L, which divides all dimensions.

    Returns:
        Module name -> scores, (R, C) float64 on the CPU.
    """
    return {name: _mean_of_abs(weight, block_size) for name, weight in weights.items()}


def lift_scores(weights: Mapping[str, Tensor], block_size: int, rank: int) -> dict[str, Tensor]:
    """The mean absolute value of each block of the weights' best approximations of a rank.

    "LIFT the Veil for the Truth" (Liu et al., ICML 2025) trains the largest elements of these.

    Args:
        weights: Module name -> weight, (O, I), in any floating dtype.
        block_size: The block size L, which divides all dimensions.
        rank: The rank r: the approximation keeps the r largest singular values.

    Returns:
        Module name -> scores, (R, C) float64 on the CPU.
    """
    scores = {}
    for name, weight in weights.items():
        left, values, right = torch.linalg.svd(weight.detach().float(), full_matrices=False)
        approximation = (left[:, :rank] * values[:rank]) @ right[:rank]
        scores[name] = _mean_of_abs(approximation, block_size)
    return scores


def _mean_of_abs(weight: Tensor, block_size: int) -> Tensor:
    grid = BlockGrid(weight.shape[0], weight.shape[1], block_size)
    return grid.view(weight.detach().double().abs()).mean((2, 3)).cpu()
