"""The picture of a comparison's table: points with intervals, lines over columns, or bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's, apart for colour-blind eyes; markers tell them apart in grey too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"

Rows = Mapping[str, Mapping[str, Any]]


def draw_table(table: Mapping[str, Any], path: Path) -> Path:
    """Draws a table's main figures.

    Args:
        table: One of a comparison's results.
        path: The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns, rows = table["columns"], table["rows"]
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    if isinstance(columns, str):
        _WAYS[columns](axes, {row: cells[""] for row, cells in rows.items()})
    else:
        _draw_lines(axes, rows, list(columns))
    axes.set_title(table["title"], loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _draw_averages(axes: Axes, cells: Rows) -> None:
    done = {row: cell["average"] for row, cell in cells.items() if "average" in cell}
    for place, (row, average) in enumerate(done.items()):
        _point(axes, place, average, place, row)
    axes.set_xticks(range(len(done)), list(done))
    axes.set_xlim(-0.5, len(done) - 0.5)
    axes.set_ylabel("average accuracy (%)")


def _draw_lines(axes: Axes, rows: Mapping[str, Rows], columns: list[str]) -> None:
    for index, (row, cells) in enumerate(rows.items()):
        # A little apart, so that intervals do not hide each other.
        aside = 0.06 * (index - (len(rows) - 1) / 2)
        points = {
            place + aside: cells[column]["average"]
            for place, column in enumerate(columns)
            if "average" in cells[column]
        }
        values = [100 * average["value"] for average in points.values()]
        axes.plot(list(points), values, color=_colour(index), linewidth=1)
        for place, average in points.items():
            _point(axes, place, average, index, row)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel("average accuracy (%)")
    handles, names = axes.get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    axes.legend(unique.values(), unique.keys(), fontsize=8)


def _draw_speed(axes: Axes, cells: Rows) -> None:
    done = {row: cell["step_seconds"] for row, cell in cells.items() if "step_seconds" in cell}
    axes.barh(list(done), list(done.values()), color=_COLOURS[0])
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step (median)")


def _draw_projections(axes: Axes, cells: Rows) -> None:
    counts = {row: cell["projections"] for row, cell in cells.items() if cell.get("projections")}
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    start = dict.fromkeys(counts, 0.0)
    for index, name in enumerate(names):
        shares = {
            row: 100 * found.get(name, 0) / sum(found.values()) for row, found in counts.items()
        }
        axes.barh(
            list(shares), list(shares.values()), left=list(start.values()),
            color=_colour(index), edgecolor="white", label=name,
        )  # fmt: skip
        start = {row: start[row] + share for row, share in shares.items()}
    axes.invert_yaxis()
    axes.set_xlabel("share of the chosen blocks (%)")
    axes.legend(fontsize=8, ncols=len(names) or 1, loc="lower center", bbox_to_anchor=(0.5, 1.0))


_WAYS: dict[str, Callable[[Any, Rows], None]] = {
    "tasks": _draw_averages,
    "speed": _draw_speed,
    "projections": _draw_projections,
}


def _point(axes: Axes, place: float, average: Mapping[str, float], index: int, name: str) -> None:
    value, low, high = (100 * average[key] for key in ("value", "low", "high"))
    axes.errorbar(
        [place], [value], yerr=[[max(0, value - low)], [max(0, high - value)]], capsize=3,
        fmt=_MARKERS[index % len(_MARKERS)], color=_colour(index), label=name,
    )  # fmt: skip


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]
