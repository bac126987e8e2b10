"""Charts inside a page: SVG elements whose text stays text and that fetch nothing.

Charts are drawn as narrow as a phone; a wider page scales them up. Series differ in colour (for
colour-blind readers) and in marker or line style (for print in grey).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from smt_ray.documents.run import Record
from smt_ray.reporting.charts.run import draw_curves, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHART_WIDTH = 6.0
"""The width in inches of 72 units: 432 units, about the width of a phone."""
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_SERIES_INCHES = 0.17  # the height of one series in a row
_GAP = 1.2  # the distance between two rows, in series
_LONGEST_LABEL = 24  # characters; the values need the rest of the width


@dataclass(frozen=True)
class Series:
    """The look of a series.

    Attributes:
        marker: The letter of the marker in matplotlib.
    """

    label: str
    colour: str
    marker: str
    filled: bool = True


Estimate = tuple[float, float, float]
"""A value and the ends of its interval."""

ACCURACY_SERIES = {
    "majority": Series("most frequent answer", "#555555", "|"),
    "base_likelihood": Series("base, by likelihood", "#CC79A7", "s", filled=False),
    "tuned_likelihood": Series("tuned, by likelihood", "#009E73", "D", filled=False),
    "base": Series("base", "#D55E00", "o", filled=False),
    "tuned": Series("tuned", "#0072B2", "D"),
}
"""The look of every accuracy of a task, by the names of the document."""


def curves_chart(records: Sequence[Record], name: str) -> str:
    """Training and validation loss over the optimizer steps."""
    return svg_chart(
        name,
        "Training and validation loss over the optimizer steps",
        3.3,
        lambda figure: draw_curves(figure, records),
    )


def accuracy_chart(rows: Mapping[str, Mapping[str, Estimate]], name: str) -> str:
    """Accuracies with intervals, one band for each row.

    Args:
        rows: Task -> key of :data:`ACCURACY_SERIES` -> accuracy and interval, in [0, 1].
    """
    label = "accuracy: correct answers (%)"
    return interval_chart(rows, ACCURACY_SERIES, name, label, limit=100)


def interval_chart(
    rows: Mapping[str, Mapping[str, Estimate]],
    series: Mapping[str, Series],
    name: str,
    label: str,
    *,
    limit: float | None = None,
) -> str:
    """Fractions with their intervals in percent, one band for each row.

    Args:
        rows: Label of the row -> key of ``series`` -> value and interval.
        series: The look of each series, from top to bottom; a series without values is left out.
        label: The label of the axis, with its unit.
        limit: The end of the axis, which then begins at 0; by default the axis fits the values.
    """
    shown = _shown(rows, series)
    return svg_chart(
        name,
        f"{label}; {', '.join(look.label for look in shown.values())}",
        interval_height(rows, series),
        lambda figure: draw_intervals(figure, rows, shown, label, limit=limit),
    )


def interval_height(
    rows: Mapping[str, Mapping[str, Estimate]], series: Mapping[str, Series]
) -> float:
    """The height that :func:`draw_intervals` needs, in inches."""
    shown = _shown(rows, series)
    num_lines = math.ceil(len(shown) / 2) if len(shown) > 1 else 0
    return 0.75 + 0.22 * num_lines + _SERIES_INCHES * (len(shown) + _GAP) * len(rows)


def draw_intervals(
    figure: Figure,
    rows: Mapping[str, Mapping[str, Estimate]],
    series: Mapping[str, Series],
    label: str,
    *,
    limit: float | None = None,
) -> None:
    """Draws the chart of :func:`interval_chart` into a figure."""
    shown = _shown(rows, series)
    band = len(shown) + _GAP
    axes = figure.subplots()
    for number, (key, look) in enumerate(shown.items()):
        points = [
            (place * band + number, *(100 * value for value in row[key]))
            for place, row in enumerate(rows.values())
            if key in row
        ]
        _draw_series(axes, points, look)
    middles = [i * band + (len(shown) - 1) / 2 for i in range(len(rows))]
    axes.set_yticks(middles, map(short_label, rows))
    axes.set_ylim(len(rows) * band - 1, -1.1)
    for place in range(1, len(rows)):
        axes.axhline(place * band - 1.1, color="#dddddd", linewidth=0.8)
    axes.margins(x=0.02 if limit else 0.08)
    if limit:
        axes.set_xlim(0, limit)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if len(shown) > 1:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handletextpad=0.3)


def short_label(text: str) -> str:
    """A label, cut so that the values have room."""
    return text if len(text) <= _LONGEST_LABEL else f"{text[:_LONGEST_LABEL]}…"


def _shown(
    rows: Mapping[str, Mapping[str, Estimate]], series: Mapping[str, Series]
) -> dict[str, Series]:
    return {key: look for key, look in series.items() if any(key in row for row in rows.values())}


def interval_reach(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> list[list[float]]:
    """The distances from values to the ends of their intervals, for matplotlib's error bars."""
    # By rounding, an end of an interval may lie on the wrong side of its value.
    return [
        [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
        [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
    ]


def _draw_series(axes: Axes, points: list[tuple[float, ...]], look: Series) -> None:
    heights, values, lows, highs = zip(*points, strict=True)
    reach = interval_reach(values, lows, highs)
    axes.errorbar(
        values, heights, xerr=reach if any(map(any, reach)) else None, fmt=look.marker,
        color=look.colour, label=look.label,
        markersize=5, markerfacecolor=look.colour if look.filled else "white", markeredgewidth=1.3,
        elinewidth=1.3, capsize=2.5, clip_on=False, zorder=3,
    )  # fmt: skip


def svg_chart(name: str, label: str, height: float, draw: Callable[[Figure], None]) -> str:
    """What ``draw`` draws, as an SVG element for a page.

    Args:
        name: A prefix for the ids of the chart, unique within the page.
        label: A description for readers who do not see the chart.
        height: The height in inches; the width is :data:`CHART_WIDTH`.
    """
    from matplotlib import rc_context

    settings: Any = {  # matplotlib's own type lists every setting
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "smt_ray",  # equal charts have equal bytes
        "text.parse_math": False,  # the name of a task is not a formula
        "font.sans-serif": ["DejaVu Sans"],  # only for the layout: the page sets the font
        "font.size": 12,
        "path.simplify_threshold": 0.5,  # points; drops details of long curves that nobody can see
    }
    with rc_context(settings):
        figure = new_figure(CHART_WIDTH, height)
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _as_element(buffer.getvalue(), name, label)


def _as_element(svg: str, name: str, label: str) -> str:
    """The root of an SVG document as an element of a page.

    The page sets its size. Its ids get the prefix, and its description is for screen readers.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": label}
    used = set(re.findall(r"#([\w-]+)", svg))
    for element in list(root.iter()):
        for style in element.findall(f"{{{_SVG}}}style"):  # it would apply to the whole page
            element.remove(style)
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for key, value in element.attrib.items():
            if "#" in value and (key.endswith("href") or value.startswith("url(")):
                element.set(key, value.replace("#", f"#{name}-", 1))
    return ElementTree.tostring(root, encoding="unicode")
