"""The pictures of a run: where its blocks are, and its losses.

Pure functions prepare what a picture shows (:func:`selection_grid`, :func:`loss_curves`). Drawing
imports matplotlib and needs no display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smt_ray.documents.module_names import parse_module_name
from smt_ray.documents.run import VALIDATION_LOSS, Record
from smt_ray.reporting.charts.colours import MAP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

TRAINING_LOSS = "train/loss"
"""The name of the training loss among the metrics of a step."""

_ROWS_A_PANEL = 42
_CELL_INCHES = (0.66, 0.2)
_TRAINING_COLOUR, _VALIDATION_COLOUR = "#00429d", "#d1730a"


@dataclass(frozen=True)
class SelectionGrid:
    """Chosen blocks by layer and projection.

    Attributes:
        layers: The rows, ascending. None is the last row: the modules without a layer number.
        projections: The columns, in the order of the model.
        counts: (layer, projection) -> the number of chosen blocks.
        totals: (layer, projection) -> the number of all blocks; no entry without such a module.
    """

    layers: tuple[int | None, ...]
    projections: tuple[str, ...]
    counts: Mapping[tuple[int | None, str], int]
    totals: Mapping[tuple[int | None, str], int]

    def share(self, layer: int | None, projection: str) -> float | None:
        """The chosen blocks of a cell as a fraction of its blocks; None without such a module."""
        total = self.totals.get((layer, projection))
        return self.counts[layer, projection] / total if total else None

    def num_chosen(self, projection: str) -> int:
        """The number of chosen blocks of a projection in all layers."""
        return sum(count for (_, name), count in self.counts.items() if name == projection)

    def num_total(self, projection: str) -> int:
        """The number of blocks of a projection in all layers."""
        return sum(total for (_, name), total in self.totals.items() if name == projection)


def selection_grid(counts: Mapping[str, int], totals: Mapping[str, int]) -> SelectionGrid:
    """Arranges modules by layer and projection; modules in one cell, such as experts, are added up.

    Args:
        counts: Module name -> the number of chosen blocks; a missing module has none.
        totals: Module name -> the number of all blocks, for every eligible module.
    """
    assert set(counts) <= set(totals), "every module with chosen blocks has a number of blocks"
    cells: dict[tuple[int | None, str], list[int]] = {}
    for name, total in totals.items():
        cell = cells.setdefault(parse_module_name(name), [0, 0])
        cell[0] += counts.get(name, 0)
        cell[1] += total
    layers = sorted({layer for layer, _ in cells}, key=lambda layer: (layer is None, layer))
    return SelectionGrid(
        layers=tuple(layers),
        projections=tuple(dict.fromkeys(projection for _, projection in cells)),
        counts={key: chosen for key, (chosen, _) in cells.items()},
        totals={key: total for key, (_, total) in cells.items()},
    )


def loss_curves(records: Sequence[Record], key: str) -> tuple[list[int], list[float]]:
    """The steps and the values of one metric, in the order of the steps.

    A step that was repeated after an interruption counts once, with its last value. Values that are
    not finite are left out.
    """
    by_step = {
        record["step"]: record["metrics"][key] for record in records if key in record["metrics"]
    }
    points = [(step, value) for step, value in sorted(by_step.items()) if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of each value and its neighbours, over at most ``width`` values.

    Each window has equally many neighbours on both sides, so it shrinks towards the ends. A
    one-sided window would lag behind a trend.
    """
    last = len(values) - 1
    reaches = [min(width // 2, i, last - i) for i in range(len(values))]
    windows = [values[i - reach : i + reach + 1] for i, reach in enumerate(reaches)]
    return [math.fsum(window) / len(window) for window in windows]


def selection_figure(
    counts: Mapping[str, int],
    totals: Mapping[str, int],
    path: Path,
    title: str,
    label: str = "blocks",
) -> None:
    """Draws where the chosen blocks are: a heat map of layers by projections (paper, Figure 5).

    The number in a cell is the number of its chosen blocks, and the colour is their share of the
    cell's blocks. Bars at the top show the totals of the projections. More than 42 layers are drawn
    in several panels side by side.

    Args:
        counts: As for :func:`selection_grid`.
        totals: As for :func:`selection_grid`.
        path: The file to write; its suffix is the format (png, pdf, svg).
        title: The title of the figure; lines of about 45 characters fit.
        label: What was chosen, such as columns.
    """
    grid = selection_grid(counts, totals)
    num_panels = max(1, math.ceil(len(grid.layers) / _ROWS_A_PANEL))
    rows = math.ceil(len(grid.layers) / num_panels)
    panels = [grid.layers[start : start + rows] for start in range(0, len(grid.layers), rows)]
    num_columns = len(grid.projections)
    bars_height = 0.24 * num_columns + 0.25
    map_height = max(rows, 4) * _CELL_INCHES[1] + 0.35
    width = max(5.2, num_panels * (num_columns * _CELL_INCHES[0] + 0.5) + 0.3)
    figure = new_figure(width, bars_height + map_height + 1.1)
    bars, *maps = _layout(figure, len(panels), (bars_height, map_height))
    figure.suptitle(title, fontsize=10, fontweight="bold")
    _draw_totals(bars, grid, label)
    largest = max((grid.share(*key) or 0.0 for key in grid.totals), default=0.0) or 1.0
    for axes, layers in zip(maps, panels, strict=True):
        image = _draw_panel(axes, grid, layers, largest)
    maps[0].set_ylabel("layer", fontsize=8)
    bar = figure.colorbar(image, ax=maps, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(f"share of the {label} in a cell that are chosen (%)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def curves_figure(records: Sequence[Record], path: Path, title: str) -> None:
    """Draws the training and validation loss over the optimizer steps.

    The training loss is a thin line, with its running mean over a twentieth of the run. Validation
    losses are points.
    """
    figure = new_figure(6.4, 3.6)
    draw_curves(figure, records)
    figure.axes[0].set_title(title, fontsize=10, fontweight="bold")
    _save(figure, path)


def draw_curves(figure: Figure, records: Sequence[Record]) -> None:
    """Draws the picture of :func:`curves_figure` into a figure of any size."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    steps, values = loss_curves(records, TRAINING_LOSS)
    width = max(1, len(values) // 20 | 1)
    if width > 1:
        axes.plot(steps, values, color=_TRAINING_COLOUR, alpha=0.3, linewidth=0.7)
    label = f"training (mean of {width} steps)" if width > 1 else "training"
    means = running_mean(values, width)
    axes.plot(steps, means, color=_TRAINING_COLOUR, linewidth=1.5, label=label)
    steps, values = loss_curves(records, VALIDATION_LOSS)
    if values:
        axes.plot(steps, values, "o--", color=_VALIDATION_COLOUR, markersize=4, label="validation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per supervised token (nats)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` by ``height`` inches."""
    # Pyplot would keep every figure in global state and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def _layout(figure: Figure, num_panels: int, heights: tuple[float, float]) -> list[Axes]:
    grid = figure.add_gridspec(2, num_panels, height_ratios=heights)
    return [
        figure.add_subplot(grid[0, :]),
        *(figure.add_subplot(grid[1, panel]) for panel in range(num_panels)),
    ]


def _draw_totals(axes: Axes, grid: SelectionGrid, label: str) -> None:
    chosen = [grid.num_chosen(projection) for projection in grid.projections]
    num_chosen = sum(chosen) or 1
    shares = [100 * number / num_chosen for number in chosen]
    axes.barh(grid.projections, shares, color="#7d7c78", height=0.65)
    for row, (projection, number, share) in enumerate(
        zip(grid.projections, chosen, shares, strict=True)
    ):
        own = 100 * number / (grid.num_total(projection) or 1)
        text = f" {number:,} {label}, {share:.1f}% of all chosen; {own:.1f}% of {projection}"
        axes.text(share, row, text, va="center", fontsize=7).set_in_layout(False)
    axes.set_xlim(0, 240)  # the texts need the rest of the width
    axes.invert_yaxis()
    axes.tick_params(labelsize=8, length=0)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_panel(
    axes: Axes, grid: SelectionGrid, layers: Sequence[int | None], largest: float
) -> AxesImage:
    from matplotlib import colormaps

    shares = [[grid.share(layer, name) for name in grid.projections] for layer in layers]
    values = [[math.nan if share is None else 100 * share for share in row] for row in shares]
    colours = colormaps[MAP].with_extremes(bad="#ffffff")
    image = axes.imshow(values, cmap=colours, vmin=0, vmax=100 * largest, aspect="auto")
    for row, layer in enumerate(layers):
        for column, name in enumerate(grid.projections):
            share = shares[row][column]
            text = "·" if share is None else f"{grid.counts[layer, name]:,}"
            dark = share is not None and share > 0.5 * largest
            colour = "white" if dark else "#222222"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(grid.projections)), grid.projections, fontsize=8)
    labels = ["other" if layer is None else str(layer) for layer in layers]
    axes.set_yticks(range(len(layers)), labels, fontsize=7)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
