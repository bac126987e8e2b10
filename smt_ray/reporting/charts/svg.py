"""Charts that stand within a page: SVG whose text is text, without anything to fetch.

They are drawn narrow, for a phone; a wider page scales them up. Series differ in colour (Okabe and
Ito's, for colour-blind eyes) and in marker or line style (for print in grey).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from smt_ray.reporting.charts.run import draw_curves, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHART_WIDTH = 6.0
"""Inches of 72 units: 432 units wide, about a phone's width."""
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_ROW_INCHES = 0.17  # of one series of a row
_GAP = 1.2  # between rows, in series
_LONGEST_LABEL = 24  # characters; the rest of the width is for the values


@dataclass(frozen=True)
class Series:
    """How a series is shown.

    Attributes:
        label: In the legend.
        colour: Of marker and interval.
        marker: Matplotlib's letter.
        filled: Whether the marker is.
    """

    label: str
    colour: str
    marker: str
    filled: bool = True


Estimate = tuple[float, float, float]
"""A value and its interval's ends."""

WHO = {
    "majority": Series("most frequent answer", "#555555", "|"),
    "base_likelihood": Series("base, by likelihood", "#CC79A7", "s", filled=False),
    "tuned_likelihood": Series("tuned, by likelihood", "#009E73", "D", filled=False),
    "base": Series("base", "#D55E00", "o", filled=False),
    "tuned": Series("tuned", "#0072B2", "D"),
}
"""What accuracies are of: metrics.json's names."""


def curves_chart(records: Sequence[Mapping[str, Any]], name: str) -> str:
    """Training and validation loss over the optimizer steps.

    Args:
        records: Records of ``metrics.jsonl``.
        name: What tells its parts from those of the page's other charts.
    """
    return svg_chart(
        name,
        "Training and validation loss over the optimizer steps",
        3.3,
        lambda figure: draw_curves(figure, records),
    )


def accuracy_chart(rows: Mapping[str, Mapping[str, Estimate]], name: str) -> str:
    """Accuracies with intervals, a band a row.

    Args:
        rows: Label (a task) -> key of :data:`WHO` -> accuracy and interval, in [0, 1].
        name: What tells its parts from those of the page's other charts.
    """
    return interval_chart(rows, WHO, name, "accuracy: correct answers (%)", scale=100, limit=100)


def interval_chart(
    rows: Mapping[str, Mapping[str, Estimate]],
    series: Mapping[str, Series],
    name: str,
    label: str,
    *,
    scale: float = 1.0,
    limit: float | None = None,
) -> str:
    """Estimates with their intervals, side by side.

    Args:
        rows: Label -> key of ``series`` -> value and interval; what has none is left out.
        series: How each is shown, from above.
        name: What tells its parts from those of the page's other charts.
        label: Of the axis, with its unit.
        scale: What values are multiplied by.
        limit: Where the axis ends, after scaling; by default it fits the values, and then does not
            begin at 0 either.
    """
    shown = _shown(rows, series)
    return svg_chart(
        name,
        f"{label}; {', '.join(how.label for how in shown.values())}",
        interval_height(rows, series),
        lambda figure: draw_intervals(figure, rows, shown, label, scale=scale, limit=limit),
    )


def interval_height(
    rows: Mapping[str, Mapping[str, Estimate]], series: Mapping[str, Series]
) -> float:
    """The inches that :func:`draw_intervals` needs."""
    shown = _shown(rows, series)
    num_lines = math.ceil(len(shown) / 2) if len(shown) > 1 else 0
    return 0.75 + 0.22 * num_lines + _ROW_INCHES * (len(shown) + _GAP) * len(rows)


def draw_intervals(
    figure: Figure,
    rows: Mapping[str, Mapping[str, Estimate]],
    series: Mapping[str, Series],
    label: str,
    *,
    scale: float = 1.0,
    limit: float | None = None,
) -> None:
    """Draw what :func:`interval_chart` shows into a figure."""
    shown = _shown(rows, series)
    band = len(shown) + _GAP
    axes = figure.subplots()
    for number, (key, how) in enumerate(shown.items()):
        points = [
            (place * band + number, *(scale * value for value in row[key]))
            for place, row in enumerate(rows.values())
            if key in row
        ]
        _draw_series(axes, points, how)
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
    """A label that leaves room for the values."""
    return text if len(text) <= _LONGEST_LABEL else f"{text[:_LONGEST_LABEL]}…"


def _shown(
    rows: Mapping[str, Mapping[str, Estimate]], series: Mapping[str, Series]
) -> dict[str, Series]:
    return {key: how for key, how in series.items() if any(key in row for row in rows.values())}


def _draw_series(axes: Axes, points: list[tuple[float, ...]], how: Series) -> None:
    heights, values, lows, highs = zip(*points, strict=True)
    # Rounding may put an end of an interval on the wrong side of its value.
    reach = [
        [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
        [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
    ]
    axes.errorbar(
        values, heights, xerr=reach if any(map(any, reach)) else None, fmt=how.marker,
        color=how.colour, label=how.label,
        markersize=5, markerfacecolor=how.colour if how.filled else "white", markeredgewidth=1.3,
        elinewidth=1.3, capsize=2.5, clip_on=False, zorder=3,
    )  # fmt: skip


def svg_chart(name: str, label: str, height: float, draw: Callable[[Figure], None]) -> str:
    """What ``draw`` draws, as an element for a page.

    Args:
        name: What tells its parts from those of the page's other charts.
        label: What it shows, for those who do not see it.
        height: In inches, of :data:`CHART_WIDTH` across.
        draw: Draws into an empty figure.
    """
    from matplotlib import rc_context

    settings = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "smt_ray",  # equal charts are equal bytes
        "text.parse_math": False,  # a task's name is no formula
        "font.sans-serif": ["DejaVu Sans"],  # what it is laid out in; the page has its own
        "font.size": 12,
        "path.simplify_threshold": 0.5,  # points; of ten thousand steps, what can be seen
    }
    with rc_context(settings):
        figure = new_figure(CHART_WIDTH, height)
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _as_element(buffer.getvalue(), name, label)


def _as_element(svg: str, name: str, label: str) -> str:
    """A document as an element of a page: sized by the page, its ids its own, named for readers."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg[svg.index("<svg") :])
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": label}
    used = set(re.findall(r"#([\w-]+)", svg))
    for element in list(root.iter()):
        for style in element.findall(f"{{{_SVG}}}style"):  # it would hold for the whole page
            element.remove(style)
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{name}-{own}")
        for key, value in element.attrib.items():
            if "#" in value and (key.endswith("href") or value.startswith("url(")):
                element.set(key, value.replace("#", f"#{name}-", 1))
    return ElementTree.tostring(root, encoding="unicode")
