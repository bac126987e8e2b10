"""The grid of one weight as a drawing: its chosen blocks, shaded by score."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from smt_ray.documents.run import BlockShape
from smt_ray.reporting.charts.colours import map_colour

NUM_LEVELS = 4
_MOST_BLOCKS = 20_000  # of all weights; if there are more, areas of several blocks are drawn
_MOST_AREAS = 60_000
_LONG_SIDE, _SHORT_SIDE = 320, 48  # pixels; the short side has at least this many
_LINED = 64  # rows and columns; smaller grids have lines between their blocks

Place = tuple[int, int]
"""(row, column) of a block, or of an area of blocks."""


@dataclass(frozen=True)
class Weight:
    """The chosen blocks of one weight.

    Attributes:
        shape: (out_features, in_features).
        block_size: The side of a block, in elements.
        blocks: The (row, column) of each chosen block.
        scores: The score of each chosen block.
    """

    block_shape: ClassVar[BlockShape] = "square"

    name: str
    shape: tuple[int, int]
    block_size: int
    blocks: Sequence[Place]
    scores: Sequence[float]

    @property
    def num_chosen(self) -> int:
        """The number of chosen blocks."""
        return len(self.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """The number of rows and columns of blocks."""
        return self.shape[0] // self.block_size, self.shape[1] // self.block_size

    @property
    def num_blocks(self) -> int:
        """The number of all blocks."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class CountedWeight:
    """The number of chosen elements or columns of one weight, whose places are not drawn.

    Attributes:
        shape: (out_features, in_features).
        block_shape: What was chosen.
    """

    name: str
    shape: tuple[int, int]
    block_shape: BlockShape
    num_chosen: int

    @property
    def num_blocks(self) -> int:
        """The number of all elements or columns."""
        rows, columns = self.shape
        return columns if self.block_shape == "column" else rows * columns


@dataclass(frozen=True)
class Shade:
    """A colour of the legend, and its meaning."""

    fill: str
    label: str


@dataclass(frozen=True)
class DrawnWeight:
    """The drawing of a weight.

    Attributes:
        area: The number of rows and columns of blocks that one square stands for.
        view: The width and height in squares.
        pixels: The width and height in pixels.
        lines: The SVG path of the lines between the squares; "" for no lines.
        paths: The colour and the SVG path of every shade that occurs.
    """

    weight: Weight
    area: int
    view: tuple[int, int]
    pixels: tuple[int, int]
    lines: str
    paths: Sequence[tuple[str, str]]


class Drawing:
    """The drawing of all weights of a selection, by blocks or, if there are very many, by areas.

    A block has one of four shades, by the quarter of all scores that its own score is in. An area
    has one by the share of its blocks that are chosen.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        ranked = sorted(score for weight in weights for score in weight.scores)
        self.by_areas = len(ranked) > _MOST_BLOCKS
        self._side = max(8, min(64, math.isqrt(_MOST_AREAS // max(1, len(weights)))))
        self._cuts = [ranked[len(ranked) * i // NUM_LEVELS] for i in range(1, NUM_LEVELS) if ranked]

    def legend(self) -> list[Shade]:
        """Every shade and its meaning."""
        if self.by_areas:
            labels = ["up to 25%", "50%", "75%", "100% of an area's blocks"]
        else:
            labels = ["lowest quarter", "second", "third", "highest quarter of all chosen scores"]
        return [Shade(_colour(level), label) for level, label in enumerate(labels)]

    def draw(self, weight: Weight) -> DrawnWeight:
        """The drawing of one weight."""
        rows, columns = weight.grid
        area = math.ceil(max(rows, columns) / self._side) if self.by_areas else 1
        height, width = math.ceil(rows / area), math.ceil(columns / area)
        longer = max(height, width)
        scale = _LONG_SIDE / longer
        paths = block_paths(_area_levels(weight, area) if self.by_areas else self._levels(weight))
        return DrawnWeight(
            weight,
            area,
            view=(width, height),
            pixels=(
                max(_SHORT_SIDE, round(scale * width)),
                max(_SHORT_SIDE, round(scale * height)),
            ),
            lines=_lines(width, height) if longer <= _LINED else "",
            paths=[(_colour(level), path) for level, path in enumerate(paths) if path],
        )

    def _levels(self, weight: Weight) -> dict[Place, int]:
        return {
            block: bisect_right(self._cuts, score)
            for block, score in zip(weight.blocks, weight.scores, strict=True)
        }


def block_paths(levels: Mapping[Place, int]) -> list[str]:
    """The SVG path of every level, which covers its places; neighbours in a row are joined.

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
        num_blocks = min(area, rows - row * area) * min(area, columns - column * area)
        levels[row, column] = math.ceil(NUM_LEVELS * count / num_blocks) - 1
    return levels


def _lines(width: int, height: int) -> str:
    vertical = "".join(f"M{x} 0V{height}" for x in range(1, width))
    return vertical + "".join(f"M0 {y}H{width}" for y in range(1, height))


def _colour(level: int) -> str:
    # The palest colours of the map would be invisible on paper.
    return map_colour(0.35 + 0.65 * level / (NUM_LEVELS - 1)).fill
