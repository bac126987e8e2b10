"""Where the chosen blocks are, for a page: layers by projections, and each weight's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smt_ray.reporting.charts.colours import map_colour
from smt_ray.reporting.charts.run import SelectionGrid, parse_module_name, selection_grid
from smt_ray.reporting.pages.weight_grid import Drawing, Weight

_MOST_WEIGHTS = 8  # drawn of one cell, such as a layer's experts

Selections = Mapping[str, Sequence[Weight]]
"""What chose -> every eligible weight with its chosen blocks."""

Key = tuple[int | None, str]
"""Layer and projection of a cell."""


def selection_map(weights: Sequence[Weight]) -> dict[str, Any] | None:
    """What the template shows of a selection; None where there is none.

    Args:
        weights: Every eligible weight, in the model's order; some may have no chosen block.
    """
    if not weights:
        return None
    grid = _grid(weights)
    drawing = Drawing(weights)
    return {
        **_heat(grid, _largest(grid), linked=True),
        "scale": _scale(),
        "panels": _panels(grid, weights, drawing),
        "levels": drawing.levels(),
        "by_areas": drawing.by_areas,
    }


def selection_maps(selections: Selections) -> dict[str, Any] | None:
    """Small maps side by side, on one scale of colours; None where there are none.

    Args:
        selections: Each has a map.
    """
    grids = {title: _grid(weights) for title, weights in selections.items() if weights}
    if not grids:
        return None
    largest = max(map(_largest, grids.values()))
    return {
        "maps": [{"title": title, **_heat(grid, largest)} for title, grid in grids.items()],
        "scale": _scale(),
        "largest": largest,
    }


def _grid(weights: Sequence[Weight]) -> SelectionGrid:
    counts = {weight.name: len(weight.blocks) for weight in weights}
    return selection_grid(counts, {weight.name: weight.num_blocks for weight in weights})


def _largest(grid: SelectionGrid) -> float:
    return max(grid.share(*key) or 0.0 for key in grid.totals)


def _scale() -> list[str]:
    return [map_colour(i / 4).fill for i in range(5)]


def _heat(grid: SelectionGrid, largest: float, *, linked: bool = False) -> dict[str, Any]:
    """The cells of a map; those with chosen blocks lead to the weight's grid if ``linked``."""
    return {
        "projections": grid.projections,
        "rows": [
            {
                "layer": "other" if layer is None else str(layer),
                "cells": [_cell(grid, (layer, name), largest, linked) for name in grid.projections],
                "num_chosen": sum(grid.counts.get((layer, name), 0) for name in grid.projections),
            }
            for layer in grid.layers
        ],
        "totals": [(grid.num_chosen(name), grid.num_total(name)) for name in grid.projections],
        "num_chosen": sum(grid.counts.values()),
        "num_blocks": sum(grid.totals.values()),
        "largest": largest,
    }


def _cell(grid: SelectionGrid, key: Key, largest: float, linked: bool) -> dict[str, Any] | None:
    """A cell of the map; None where the model has no such weight."""
    if (share := grid.share(*key)) is None:
        return None
    count, colour = grid.counts[key], map_colour(share / largest if largest else 0.0)
    return {
        "count": count,
        "anchor": _anchor(key) if count and linked else None,
        "title": f"{_title(key)}: {count:,} of {grid.totals[key]:,} blocks ({share:.1%})",
        "fill": colour.fill,
        "ink": colour.ink,
    }


def _panels(
    grid: SelectionGrid, weights: Sequence[Weight], drawing: Drawing
) -> list[dict[str, Any]]:
    """The weights of each cell that has chosen blocks, drawn; the fullest cell is the last.

    A style sheet can hide the last one after another that is asked for, without a script.
    """
    members: dict[Key, list[Weight]] = {}
    for weight in weights:
        if weight.blocks:
            members.setdefault(parse_module_name(weight.name), []).append(weight)
    panels = []
    for key in sorted(members, key=lambda key: grid.counts[key]):
        fullest = sorted(members[key], key=lambda weight: -len(weight.blocks))[:_MOST_WEIGHTS]
        panels.append(
            {
                "anchor": _anchor(key),
                "title": _title(key),
                "weights": [drawing.weight(weight) for weight in fullest],
                "num_more": len(members[key]) - len(fullest),
            }
        )
    return panels


def _anchor(key: Key) -> str:
    layer, projection = key
    return f"weight-{'other' if layer is None else layer}-{projection}"


def _title(key: Key) -> str:
    layer, projection = key
    return projection if layer is None else f"layer {layer}, {projection}"
