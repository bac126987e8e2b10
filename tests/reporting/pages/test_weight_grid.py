"""Claims about the drawing of the blocks of a weight, and about the map that links to it."""

from __future__ import annotations

import re

import pytest

from smt_ray.reporting.charts.colours import map_colour
from smt_ray.reporting.pages import weight_grid
from smt_ray.reporting.pages.selection_map import selection_map
from smt_ray.reporting.pages.weight_grid import Drawing, Weight, block_paths


def covered(path: str) -> set[tuple[int, int]]:
    """The unit squares that a path covers."""
    runs = re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path)
    assert "".join(f"M{x} {y}h{n}v1h-{m}z" for x, y, n, m in runs) == path
    return {(int(y), int(x) + i) for x, y, n, _ in runs for i in range(int(n))}


def test_paths_cover_the_places_of_their_level_and_join_neighbours() -> None:
    levels = {(0, 0): 0, (0, 1): 0, (0, 2): 3, (1, 2): 3, (1, 0): 0, (5, 7): 1}
    paths = block_paths(levels)
    for level, path in enumerate(paths):
        assert covered(path) == {place for place, own in levels.items() if own == level}
    assert paths[0] == "M0 0h2v1h-2zM0 1h1v1h-1z"


def test_every_chosen_block_is_drawn_once_in_the_shade_of_its_score() -> None:
    first = Weight("a.0.q", (40, 80), 8, [(0, 0), (1, 1), (2, 2), (3, 3)], [8, 7, 6, 5])
    second = Weight("a.1.q", (40, 80), 8, [(4, 9), (4, 8), (0, 9), (0, 8)], [1, 2, 3, 4])
    drawing = Drawing([first, second])
    shades = [shade.fill for shade in drawing.legend()]
    assert len(set(shades)) == weight_grid.NUM_LEVELS
    shown = drawing.draw(first)
    assert {fill: covered(path) for fill, path in shown.paths} == {
        shades[2]: {(2, 2), (3, 3)},
        shades[3]: {(0, 0), (1, 1)},
    }
    assert (shown.weight.grid, shown.view, shown.area) == ((5, 10), (10, 5), 1)
    assert shown.pixels == (320, 160)


def test_very_many_blocks_are_drawn_by_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_grid, "_MOST_BLOCKS", 10)
    monkeypatch.setattr(weight_grid, "_MOST_AREAS", 64)
    # 20 x 20 blocks in at most 8 x 8 areas: areas of 3 x 3 blocks, at the edges 3 x 2 and 2 x 2.
    blocks = [(row, column) for row in range(3) for column in range(3)]
    blocks += [(18, 18), (18, 19), (19, 18), (10, 10)]
    weight = Weight("q", (320, 320), 16, blocks, [1.0] * 13)
    drawing = Drawing([weight])
    shown = drawing.draw(weight)
    assert (shown.area, shown.view) == (3, (7, 7))
    shades = [shade.fill for shade in drawing.legend()]
    places = {place: fill for fill, path in shown.paths for place in covered(path)}
    assert places == {(0, 0): shades[3], (3, 3): shades[0], (6, 6): shades[2]}


def test_experts_share_a_cell_and_those_with_the_most_blocks_are_drawn() -> None:
    blocks = [(0, 0), (1, 1)]
    experts = [
        Weight(f"model.layers.0.mlp.experts.{i}.up_proj", (32, 32), 16, blocks[:i], [1.0, 1.0][:i])
        for i in range(12)
    ]
    shown = selection_map(experts)
    assert shown is not None
    (panel,) = shown.panels
    assert len(panel.weights) == 8
    assert panel.num_more == 3
    (cell,) = shown.heat.rows[0].cells
    assert cell is not None
    assert cell.num_chosen == 21


def test_an_empty_selection_has_a_map_without_links() -> None:
    shown = selection_map([Weight("model.layers.0.q_proj", (32, 32), 16, [], [])])
    assert shown is not None
    assert shown.panels == []
    (cell,) = shown.heat.rows[0].cells
    assert cell is not None
    assert cell.anchor == ""
    assert selection_map([]) is None


@pytest.mark.parametrize("value", [i / 10 for i in range(11)])
def test_text_on_the_map_has_enough_contrast(value: float) -> None:
    colour = map_colour(value)
    low, high = sorted((luminance(colour.fill), luminance(colour.ink)))
    assert (high + 0.05) / (low + 0.05) > 4.1


def luminance(colour: str) -> float:
    """The relative luminance by WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
