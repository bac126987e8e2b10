"""The grid of one weight as a drawing: its chosen blocks, shaded by score."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smt_ray.reporting.charts.colours import map_colour

NUM_LEVELS = 4
_MOST_BLOCKS = 20_000  # drawn one by one, over all weights; beyond, areas of several are
_MOST_AREAS = 60_000
_LONG_SIDE, _SHORT_SIDE = 320, 48  # of a drawing, in pixels; the short one is at least so much
_LINED = 64  # rows and columns up to which there are lines between the blocks

Place = tuple[int, int]
"""(row, column) of a block, or of an area of blocks."""


@dataclass(frozen=True)
class Weight:
    """The chosen blocks of one weight.

    Attributes:
        name: Its module.
        shape: (out_features, in_features).
        block_size: Side of a block, in elements.
        blocks: (row, column) of each.
        scores: Of each.
    """

    name: str
    shape: tuple[int, int]
    block_size: int
    blocks: Sequence[Place]
    scores: Sequence[float]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return self.shape[0] // self.block_size, self.shape[1] // self.block_size

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        return self.grid[0] * self.grid[1]


class Drawing:
    """How the weights of a selection are drawn: block by block or, of very many, by areas.

    Args:
        weights: All of them: a block's shade is the quarter of their scores that its own is in.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        ranked = sorted(score for weight in weights for score in weight.scores)
        self.by_areas = len(ranked) > _MOST_BLOCKS
        self._side = max(8, min(64, math.isqrt(_MOST_AREAS // max(1, len(weights)))))
        self._cuts = [ranked[len(ranked) * i // NUM_LEVELS] for i in range(1, NUM_LEVELS) if ranked]

    def levels(self) -> list[dict[str, str]]:
        """The legend: each shade and what it stands for."""
        if self.by_areas:
            words = ["up to 25%", "50%", "75%", "100% of an area's blocks"]
        else:
            words = ["lowest quarter", "second", "third", "highest quarter of all chosen scores"]
        return [{"fill": _shade(level), "label": word} for level, word in enumerate(words)]

    def weight(self, weight: Weight) -> dict[str, Any]:
        """What the template shows of a weight."""
        rows, columns = weight.grid
        area = math.ceil(max(rows, columns) / self._side) if self.by_areas else 1
        height, width = math.ceil(rows / area), math.ceil(columns / area)
        longer = max(height, width)
        paths = block_paths(_area_levels(weight, area) if self.by_areas else self._levels(weight))
        return {
            "name": weight.name,
            "shape": weight.shape,
            "grid": weight.grid,
            "block_size": weight.block_size,
            "num_chosen": len(weight.blocks),
            "num_blocks": weight.num_blocks,
            "area": area,
            "view": (width, height),
            "pixels": [max(_SHORT_SIDE, round(_LONG_SIDE * n / longer)) for n in (width, height)],
            "lines": _lines(width, height) if longer <= _LINED else "",
            "paths": [(_shade(level), path) for level, path in enumerate(paths) if path],
        }

    def _levels(self, weight: Weight) -> dict[Place, int]:
        return {
            block: bisect_right(self._cuts, score)
            for block, score in zip(weight.blocks, weight.scores, strict=True)
        }


def block_paths(levels: Mapping[Place, int]) -> list[str]:
    """For each level the SVG path that covers its places; neighbours in a row are joined.

    Args:
        levels: Place -> level, below ``NUM_LEVELS``.
    """
    paths = [""] * NUM_LEVELS
    runs: list[list[int]] = []  # row, first column, length, level
    for (row, column), level in sorted(levels.items()):
        if runs and [runs[-1][0], sum(runs[-1][1:3]), runs[-1][3]] == [row, column, level]:
            runs[-1][2] += 1
        else:
            runs.append([row, column, 1, level])
    for row, column, length, level in runs:
        paths[level] += f"M{column} {row}h{length}v1h-{length}z"
    return paths


def _area_levels(weight: Weight, area: int) -> dict[Place, int]:
    """Area of ``area`` x ``area`` blocks -> the quarter that its share of chosen blocks is in."""
    rows, columns = weight.grid
    counts = Counter((row // area, column // area) for row, column in weight.blocks)
    levels = {}
    for (row, column), count in counts.items():
        there = min(area, rows - row * area) * min(area, columns - column * area)
        levels[row, column] = math.ceil(NUM_LEVELS * count / there) - 1
    return levels


def _lines(width: int, height: int) -> str:
    upright = "".join(f"M{x} 0V{height}" for x in range(1, width))
    return upright + "".join(f"M0 {y}H{width}" for y in range(1, height))


def _shade(level: int) -> str:
    # The map's palest would be lost on paper.
    return map_colour(0.35 + 0.65 * level / (NUM_LEVELS - 1)).fill
