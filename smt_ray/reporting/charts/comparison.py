"""The pictures of a comparison: each table's, and the losses; the same for its page and as PNG.

Rows of a table differ in colour (for colour-blind eyes) and in marker (for print in grey).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smt_ray.reporting.charts.colours import series_colour
from smt_ray.reporting.charts.run import loss_curves, new_figure, running_mean
from smt_ray.reporting.charts.svg import (
    Estimate,
    Series,
    draw_intervals,
    interval_chart,
    interval_height,
    short_label,
    svg_chart,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METHODS = ("smt", "lora", "dora", "full")
_MARKERS = "DosvP^X"
_STYLES = ("-", "--", "-.", ":")
_MOST_UPRIGHT = 44  # characters of all columns' names that stand side by side
_NAMED, _NUMBERED = 22, 9  # percent of a bar that a name and a share need, or a share alone

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Picture:
    """A table's main figures.

    Attributes:
        label: What is shown.
        height: Inches it needs.
        draw: Draws it into an empty figure.
    """

    label: str
    height: float
    draw: Callable[[Figure], None]


def draw_table(table: Mapping[str, Any], path: Path) -> Path:
    """Draws a table's main figures.

    Args:
        table: One of a comparison's results.
        path: The PNG.
    """
    picture = _picture(table)
    figure = new_figure(7, picture.height + 0.3)
    picture.draw(figure)
    figure.axes[0].set_title(table["title"], loc="left", fontsize=10)
    figure.savefig(path, dpi=150)
    return path


def table_chart(table: Mapping[str, Any], name: str) -> str | None:
    """The same for a page; None where nothing was measured.

    Args:
        table: One of a comparison's results.
        name: What tells its parts from those of the page's other charts.
    """
    if not _measured(table):
        return None
    picture = _picture(table)
    return svg_chart(name, f"{table['title']}: {picture.label}", picture.height, picture.draw)


def tasks_chart(table: Mapping[str, Any], name: str) -> str | None:
    """Accuracies by task with intervals, a band a task; None where there is one task or none.

    Args:
        table: One whose columns are tasks.
        name: What tells its parts from those of the page's other charts.
    """
    rows: dict[str, dict[str, Estimate]] = {}
    for row, columns in table["rows"].items():
        for task, interval in columns[""].get("task_intervals", {}).items():
            low, high = interval
            rows.setdefault(task, {})[row] = (columns[""]["tasks"][task], low, high)
    if len(rows) < 2:
        return None
    label = "accuracy: correct answers (%)"
    return interval_chart(rows, series_of(table["rows"]), name, label, scale=100)


def losses_chart(records: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> str | None:
    """Training losses over the optimizer steps as lines, validation losses as points.

    Args:
        records: Row -> records of a run's ``metrics.jsonl``.
        name: What tells its parts from those of the page's other charts.
    """
    if not any(loss_curves(of_row, "train/loss")[0] for of_row in records.values()):
        return None
    label = "Training and validation losses over the optimizer steps"
    height = 3.3 + _legend_inches(len(records))
    return svg_chart(name, label, height, partial(_draw_losses, records=records))


def series_of(rows: Iterable[str]) -> dict[str, Series]:
    """How each row of a table is shown in all its charts; a method looks alike in all tables.

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


def _picture(table: Mapping[str, Any]) -> _Picture:
    columns, rows = table["columns"], table["rows"]
    if not isinstance(columns, str):
        height = 2.6 + _legend_inches(len(rows))
        return _Picture("average accuracy by column", height, partial(_draw_lines, table=table))
    cells = {row: of_row[""] for row, of_row in rows.items()}
    if columns == "tasks":
        return _averages(cells)
    bars = 0.75 + 0.36 * len(cells)
    if columns == "speed":
        return _Picture("seconds a step", bars, partial(_draw_speed, cells=cells))
    draw = partial(_draw_projections, cells=cells)
    return _Picture("shares of the chosen blocks", bars + 0.4, draw)


def _measured(table: Mapping[str, Any]) -> bool:
    kinds = {"speed": "step_seconds", "projections": "projections"}
    key = kinds.get(table["columns"] if isinstance(table["columns"], str) else "", "average")
    return any(cell.get(key) for cells in table["rows"].values() for cell in cells.values())


def _legend_inches(number: int) -> float:
    return 0.22 * ((number + 1) // 2)


def _averages(cells: Rows) -> _Picture:
    key, label = "average", "average accuracy (%)"
    series = {key: Series(label, series_colour(0).fill, _MARKERS[0])}
    rows = {row: {key: _estimate(cell)} for row, cell in cells.items() if key in cell}
    draw = partial(draw_intervals, rows=rows, series=series, label=label, scale=100)
    return _Picture(label, interval_height(rows, series), draw)


def _estimate(cell: Mapping[str, Any]) -> Estimate:
    value, low, high = (cell["average"][key] for key in ("value", "low", "high"))
    return value, low, high


def _draw_lines(figure: Figure, table: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    columns, rows = list(table["columns"]), table["rows"]
    for index, (row, how) in enumerate(series_of(rows).items()):
        # A little apart, so that intervals do not hide each other.
        aside = 0.06 * (index - (len(rows) - 1) / 2)
        found = [
            (place + aside, *(100 * part for part in _estimate(rows[row][column])))
            for place, column in enumerate(columns)
            if "average" in rows[row][column]
        ]
        if not found:
            continue
        places, values, lows, highs = zip(*found, strict=True)
        reach = [
            [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
            [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
        ]
        axes.errorbar(
            places, values, yerr=reach, capsize=3, linewidth=1.2, elinewidth=1, label=how.label,
            marker=how.marker, color=how.colour, linestyle=_STYLES[index % len(_STYLES)],
            markersize=5, markerfacecolor=how.colour if how.filled else "white",
        )  # fmt: skip
    slanted = sum(map(len, columns)) > _MOST_UPRIGHT
    axes.set_xticks(
        range(len(columns)),
        [short_label(column) for column in columns],
        rotation=30 if slanted else 0,
        ha="right" if slanted else "center",
    )
    axes.set_ylabel("average accuracy (%)")
    _finish(figure, axes, "y")


def _draw_speed(figure: Figure, cells: Rows) -> None:
    axes = figure.subplots()
    done = {row: cell["step_seconds"] for row, cell in cells.items() if cell.get("step_seconds")}
    bars = axes.barh(
        range(len(done)), list(done.values()), color=series_colour(0).fill, height=0.65
    )
    axes.bar_label(bars, [f"{seconds:.3f}" for seconds in done.values()], padding=3)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(done)), map(short_label, done))
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step (median)")
    _finish(figure, axes, "x")


def _draw_projections(figure: Figure, cells: Rows) -> None:
    axes = figure.subplots()
    counts = {row: cell["projections"] for row, cell in cells.items() if cell.get("projections")}
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
    _finish(figure, axes, "x", columns=3)


def _segment_text(name: str, share: float) -> str:
    if share < _NUMBERED:
        return ""
    return f"{name} {share:.0f}" if share >= _NAMED else f"{share:.0f}"


def _draw_losses(figure: Figure, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    handles = []
    for index, (row, how) in enumerate(series_of(records).items()):
        steps, values = loss_curves(records[row], "train/loss")
        means = running_mean(values, max(1, len(values) // 10 | 1))
        look = {"color": how.colour, "markersize": 6, "markeredgecolor": "white"}
        style = _STYLES[index % len(_STYLES)]
        axes.plot(steps, means, color=how.colour, linestyle=style, linewidth=1.4)
        steps, values = loss_curves(records[row], "validation/loss")
        axes.plot(steps, values, marker=how.marker, linestyle="", clip_on=False, zorder=3, **look)
        handles.append(Line2D([], [], marker=how.marker, linestyle=style, label=how.label, **look))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per supervised token (nats)")
    _finish(figure, axes, "both", handles)


def _finish(
    figure: Figure, axes: Axes, grid: Any, handles: Sequence[Any] = (), columns: int = 2
) -> None:
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    shown = handles or axes.get_legend_handles_labels()[0]
    if len(shown) > 1:
        figure.legend(
            handles=shown, loc="outside upper left", ncols=columns, frameon=False, handletextpad=0.5
        )
