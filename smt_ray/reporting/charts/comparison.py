"""The picture of each table of a comparison, for the page and as PNG.

The rows of a table differ in colour (for colour-blind readers) and in marker (for print in grey).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smt_ray.documents.comparison import CellResult, TableResult
from smt_ray.reporting.charts.colours import series_colour
from smt_ray.reporting.charts.run import new_figure
from smt_ray.reporting.charts.svg import (
    Estimate,
    Series,
    draw_intervals,
    interval_chart,
    interval_height,
    interval_reach,
    short_label,
    svg_chart,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_METHODS = ("smt", "lora", "dora", "full", "sift")
_MARKERS = "DosvP^X"
_MOST_UPRIGHT = 44  # characters of all names of columns; longer ones are slanted
_NAMED, _NUMBERED = 22, 9  # percent; smaller bars have no room for their name, or for their share

LINE_STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
"""The lines of rows, which repeat after the last one."""


@dataclass(frozen=True)
class _Picture:
    """The picture of a table.

    Attributes:
        height: The height that the picture needs, in inches.
        draw: A function that draws the picture into an empty figure.
    """

    label: str
    height: float
    draw: Callable[[Figure], None]


def draw_table(table: TableResult, path: Path) -> None:
    """Draws the main numbers of a table into a PNG."""
    picture = _picture(table)
    figure = new_figure(7, picture.height + 0.3)
    picture.draw(figure)
    figure.axes[0].set_title(table.title, loc="left", fontsize=10)
    figure.savefig(path, dpi=150)


def table_chart(table: TableResult, name: str) -> str | None:
    """The picture of :func:`draw_table` for a page; None if nothing was measured."""
    if not _is_measured(table):
        return None
    picture = _picture(table)
    return svg_chart(name, f"{table.title}: {picture.label}", picture.height, picture.draw)


def tasks_chart(table: TableResult, name: str) -> str | None:
    """The accuracies of a table of tasks, one band a task; None for fewer than two tasks."""
    bands: dict[str, dict[str, Estimate]] = {}
    for row, columns in table.rows.items():
        accuracies = columns[""].tasks or {}
        for task, (low, high) in columns[""].task_intervals.items():
            bands.setdefault(task, {})[row] = (accuracies[task], low, high)
    if len(bands) < 2:
        return None
    label = "accuracy: correct answers (%)"
    return interval_chart(bands, series_of(table.rows), name, label)


def series_of(rows: Iterable[str]) -> dict[str, Series]:
    """The look of each row in all charts; a method has the same look in all tables.

    Filled markers come before open ones.
    """
    places = _places(list(rows))
    return {
        row: Series(
            short_label(row),
            series_colour(place).fill,
            _MARKERS[place % len(_MARKERS)],
            filled=place // len(_MARKERS) % 2 == 0,
        )
        for row, place in places.items()
    }


def _places(rows: Sequence[str]) -> dict[str, int]:
    taken = {row: _METHODS.index(row) for row in rows if row in _METHODS}
    free = (place for place in itertools.count() if place not in taken.values())
    return {row: taken[row] if row in taken else next(free) for row in rows}


def _picture(table: TableResult) -> _Picture:
    rows = table.rows
    if isinstance(table.columns, list):
        height = 2.6 + legend_inches(len(rows))
        draw = partial(_draw_lines, rows=rows, columns=table.columns)
        return _Picture("average accuracy by column", height, draw)
    cells = {row: columns[""] for row, columns in rows.items()}
    if table.columns == "tasks":
        return _averages(cells)
    height = 0.75 + 0.36 * len(cells)
    if table.columns == "speed":
        return _Picture("seconds a step", height, partial(_draw_speed, cells=cells))
    draw_shares = partial(_draw_projections, cells=cells)
    return _Picture("shares of the chosen blocks", height + 0.4, draw_shares)


def _is_measured(table: TableResult) -> bool:
    cells = (cell for _, _, cell in table.cells())
    if table.columns == "speed":
        return any(cell.step_seconds for cell in cells)
    if table.columns == "projections":
        return any(cell.projections for cell in cells)
    return any(cell.average for cell in cells)


def legend_inches(number: int) -> float:
    """The height of a legend with ``number`` entries."""
    return 0.22 * ((number + 1) // 2)


def _averages(cells: Mapping[str, CellResult]) -> _Picture:
    key, label = "average", "average accuracy (%)"
    series = {key: Series(label, series_colour(0).fill, _MARKERS[0])}
    bands = {row: {key: found} for row, cell in cells.items() if (found := _estimate(cell))}
    draw = partial(draw_intervals, rows=bands, series=series, label=label)
    return _Picture(label, interval_height(bands, series), draw)


def _estimate(cell: CellResult) -> Estimate | None:
    average = cell.average
    return None if average is None else (average.value, average.low, average.high)


def _draw_lines(
    figure: Figure, rows: Mapping[str, Mapping[str, CellResult]], columns: Sequence[str]
) -> None:
    axes = figure.subplots()
    for index, (row, look) in enumerate(series_of(rows).items()):
        # Rows are moved a little apart, so that their intervals do not hide each other.
        aside = 0.06 * (index - (len(rows) - 1) / 2)
        points = [
            (place + aside, *(100 * part for part in estimate))
            for place, column in enumerate(columns)
            if (estimate := _estimate(rows[row][column]))
        ]
        if not points:
            continue
        places, values, lows, highs = zip(*points, strict=True)
        axes.errorbar(
            places, values, yerr=interval_reach(values, lows, highs), capsize=3, linewidth=1.2,
            elinewidth=1, label=look.label, marker=look.marker, color=look.colour,
            linestyle=LINE_STYLES[index % len(LINE_STYLES)], markersize=5,
            markerfacecolor=look.colour if look.filled else "white",
        )  # fmt: skip
    is_slanted = sum(map(len, columns)) > _MOST_UPRIGHT
    axes.set_xticks(
        range(len(columns)),
        [short_label(column) for column in columns],
        rotation=30 if is_slanted else 0,
        ha="right" if is_slanted else "center",
    )
    axes.set_ylabel("average accuracy (%)")
    finish_axes(figure, axes, "y")


def _draw_speed(figure: Figure, cells: Mapping[str, CellResult]) -> None:
    axes = figure.subplots()
    found = {row: cell.step_seconds for row, cell in cells.items() if cell.step_seconds}
    bars = axes.barh(
        range(len(found)), list(found.values()), color=series_colour(0).fill, height=0.65
    )
    axes.bar_label(bars, [f"{seconds:.3f}" for seconds in found.values()], padding=3)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(found)), map(short_label, found))
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step (median)")
    finish_axes(figure, axes, "x")


def _draw_projections(figure: Figure, cells: Mapping[str, CellResult]) -> None:
    axes = figure.subplots()
    counts = {row: cell.projections for row, cell in cells.items() if cell.projections}
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    start = [0.0] * len(counts)
    for index, name in enumerate(names):
        colour = series_colour(index)
        shares = [100 * found.get(name, 0) / sum(found.values()) for found in counts.values()]
        bars = axes.barh(
            range(len(counts)), shares, left=start, height=0.65,
            color=colour.fill, edgecolor="white", label=short_label(name),
        )  # fmt: skip
        texts = [_segment_text(name, share) for share in shares]
        axes.bar_label(bars, texts, label_type="center", color=colour.ink, fontsize=10)
        start = [before + share for before, share in zip(start, shares, strict=True)]
    axes.set_yticks(range(len(counts)), map(short_label, counts))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the chosen blocks (%)")
    finish_axes(figure, axes, "x", num_columns=3)


def _segment_text(name: str, share: float) -> str:
    if share < _NUMBERED:
        return ""
    return f"{name} {share:.0f}" if share >= _NAMED else f"{share:.0f}"


def finish_axes(
    figure: Figure,
    axes: Axes,
    grid: Literal["both", "x", "y"],
    handles: Sequence[Line2D] = (),
    num_columns: int = 2,
) -> None:
    """Draws the grid and, for several series, the legend.

    Args:
        handles: The entries of the legend; by default the series with a label.
    """
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    shown = handles or axes.get_legend_handles_labels()[0]
    if len(shown) > 1:
        figure.legend(
            handles=shown, loc="outside upper left", ncols=num_columns, frameon=False,
            handletextpad=0.5,
        )  # fmt: skip
