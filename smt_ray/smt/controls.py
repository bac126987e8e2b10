"""Controls: scores without gradients, for comparison with the gradient scores."""

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
    scores = {}
    for name, weight in weights.items():
        grid = BlockGrid(weight.shape[0], weight.shape[1], block_size)
        scores[name] = grid.view(weight.detach().double().abs()).mean((2, 3)).cpu()
    return scores
