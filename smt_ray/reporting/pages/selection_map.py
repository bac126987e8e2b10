"""Where the chosen blocks are: a heat map of layers by projections, and the grid of each weight.

Elements and columns have the heat map only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smt_ray.documents.module_names import parse_module_name
from smt_ray.reporting.charts.colours import Colour, map_colour
from smt_ray.reporting.charts.run import SelectionGrid, selection_grid
from smt_ray.reporting.pages.weight_grid import (
    CountedWeight,
    Drawing,
    DrawnWeight,
    Shade,
    Weight,
)
from smt_ray.reporting.text.values import blocks_label

_MOST_WEIGHTS = 8  # drawn for one cell, which may hold the experts of a layer

Weights = Sequence[Weight | CountedWeight]
"""Every eligible weight of a model with what is chosen of it, which has one shape."""

Selections = Mapping[str, Weights]
"""Name of a selection -> its weights."""

Key = tuple[int | None, str]
"""The layer and the projection of a cell."""


@dataclass(frozen=True)
class HeatCell:
    """A cell of a heat map.

    Attributes:
        title: The numbers in words.
        colour: The colour of the share of chosen blocks.
        anchor: The anchor of the weight's grid; "" for no link.
    """

    num_chosen: int
    title: str
    colour: Colour
    anchor: str = ""


@dataclass(frozen=True)
class HeatRow:
    """A layer of a heat map.

    Attributes:
        layer: The number of the layer, or "other" for modules without one.
        cells: The cells by projection; None if the model has no such weight.
    """

    layer: str
    cells: Sequence[HeatCell | None]
    num_chosen: int


@dataclass(frozen=True)
class HeatMap:
    """The chosen blocks by layer and projection.

    Attributes:
        label: What is chosen: blocks, columns or elements.
        totals: (chosen blocks, all blocks) of each projection.
    """

    label: str
    projections: Sequence[str]
    rows: Sequence[HeatRow]
    totals: Sequence[tuple[int, int]]

    @property
    def num_chosen(self) -> int:
        """The number of chosen blocks."""
        return sum(chosen for chosen, _ in self.totals)

    @property
    def num_blocks(self) -> int:
        """The number of all blocks."""
        return sum(blocks for _, blocks in self.totals)


@dataclass(frozen=True)
class ColourScale:
    """The colours of heat maps.

    Attributes:
        largest: The share that has the last colour.
        colours: The colours from a share of 0 to the largest.
    """

    largest: float
    colours: Sequence[str]


@dataclass(frozen=True)
class Panel:
    """The weights of one cell of the heat map.

    Attributes:
        anchor: The anchor that the cell links to.
        title: The layer and the projection.
        weights: The weights with the most chosen blocks.
        num_more: The number of further weights with chosen blocks.
    """

    anchor: str
    title: str
    weights: Sequence[DrawnWeight]
    num_more: int


@dataclass(frozen=True)
class SelectionMap:
    """A selection in detail.

    Attributes:
        panels: The weights of each cell with chosen blocks; the cell with the most is the last.
            There are none if elements or columns are chosen.
    """

    heat: HeatMap
    scale: ColourScale
    panels: Sequence[Panel]
    legend: Sequence[Shade]


@dataclass(frozen=True)
class SelectionMaps:
    """The heat maps of several selections by name, with the colours of one scale."""

    heats: Mapping[str, HeatMap]
    scale: ColourScale

    @property
    def label(self) -> str:
        """What is chosen, such as blocks; selections may differ."""
        return " or ".join(dict.fromkeys(heat.label for heat in self.heats.values()))


def selection_map(weights: Weights) -> SelectionMap | None:
    """The map of a selection; None without weights.

    Args:
        weights: Every eligible weight, in the order of the model, with or without chosen blocks.
    """
    if not weights:
        return None
    grid, label = _grid(weights), _label(weights)
    scale = _scale([grid])
    drawn = [weight for weight in weights if isinstance(weight, Weight)]
    if not drawn:
        return SelectionMap(_heat(grid, label, scale), scale, (), ())
    drawing = Drawing(drawn)
    heat = _heat(grid, label, scale, is_linked=True)
    return SelectionMap(heat, scale, _panels(grid, drawn, drawing), drawing.legend())


def selection_maps(selections: Selections) -> SelectionMaps | None:
    """The heat maps of several selections, with the same colours; None without selections."""
    grids = {name: _grid(weights) for name, weights in selections.items() if weights}
    if not grids:
        return None
    scale = _scale(list(grids.values()))
    heats = {name: _heat(grid, _label(selections[name]), scale) for name, grid in grids.items()}
    return SelectionMaps(heats, scale)


def _label(weights: Weights) -> str:
    return blocks_label(weights[0].block_shape)


def _grid(weights: Weights) -> SelectionGrid:
    counts = {weight.name: weight.num_chosen for weight in weights}
    return selection_grid(counts, {weight.name: weight.num_blocks for weight in weights})


def _scale(grids: Sequence[SelectionGrid]) -> ColourScale:
    largest = max(grid.share(*key) or 0.0 for grid in grids for key in grid.totals)
    return ColourScale(largest, tuple(map_colour(i / 4).fill for i in range(5)))


def _heat(
    grid: SelectionGrid, label: str, scale: ColourScale, *, is_linked: bool = False
) -> HeatMap:
    rows = [
        HeatRow(
            "other" if layer is None else str(layer),
            [_cell(grid, (layer, name), label, scale, is_linked) for name in grid.projections],
            sum(grid.counts.get((layer, name), 0) for name in grid.projections),
        )
        for layer in grid.layers
    ]
    totals = [(grid.num_chosen(name), grid.num_total(name)) for name in grid.projections]
    return HeatMap(label, grid.projections, rows, totals)


def _cell(
    grid: SelectionGrid, key: Key, label: str, scale: ColourScale, is_linked: bool
) -> HeatCell | None:
    if (share := grid.share(*key)) is None:
        return None
    count = grid.counts[key]
    return HeatCell(
        count,
        f"{_title(key)}: {count:,} of {grid.totals[key]:,} {label} ({share:.1%})",
        map_colour(share / scale.largest if scale.largest else 0.0),
        _anchor(key) if count and is_linked else "",
    )


def _panels(grid: SelectionGrid, weights: Sequence[Weight], drawing: Drawing) -> list[Panel]:
    """The panels, by their number of chosen blocks.

    The page shows the last panel until another one is asked for, by its style sheet alone.
    """
    members: dict[Key, list[Weight]] = {}
    for weight in weights:
        if weight.blocks:
            members.setdefault(parse_module_name(weight.name), []).append(weight)
    panels = []
    for key in sorted(members, key=lambda key: grid.counts[key]):
        shown = sorted(members[key], key=lambda weight: -len(weight.blocks))[:_MOST_WEIGHTS]
        panels.append(
            Panel(
                _anchor(key),
                _title(key),
                [drawing.draw(weight) for weight in shown],
                len(members[key]) - len(shown),
            )
        )
    return panels


def _anchor(key: Key) -> str:
    layer, projection = key
    return f"weight-{'other' if layer is None else layer}-{projection}"


def _title(key: Key) -> str:
    layer, projection = key
    return projection if layer is None else f"layer {layer}, {projection}"
