"""The losses of several runs in one picture, for the page of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from smt_ray.documents.run import VALIDATION_LOSS, Record
from smt_ray.reporting.charts.comparison import LINE_STYLES, finish_axes, legend_inches, series_of
from smt_ray.reporting.charts.run import TRAINING_LOSS, loss_curves, running_mean
from smt_ray.reporting.charts.svg import svg_chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Records = Mapping[str, Sequence[Record]]
"""Row of a table -> the records of a run's ``metrics.jsonl``."""


def losses_chart(records: Records, name: str) -> str | None:
    """Training losses as lines and validation losses as markers, over the optimizer steps."""
    if not any(loss_curves(of_row, TRAINING_LOSS)[0] for of_row in records.values()):
        return None
    label = "Training and validation losses over the optimizer steps"
    height = 3.3 + legend_inches(len(records))
    return svg_chart(name, label, height, partial(_draw_losses, records=records))


def _draw_losses(figure: Figure, records: Records) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    handles = []
    for index, (row, look) in enumerate(series_of(records).items()):
        style = LINE_STYLES[index % len(LINE_STYLES)]
        marker: dict[str, Any] = {
            "marker": look.marker, "color": look.colour,
            "markersize": 6, "markeredgecolor": "white",
        }  # fmt: skip
        steps, values = loss_curves(records[row], TRAINING_LOSS)
        means = running_mean(values, max(1, len(values) // 10 | 1))
        axes.plot(steps, means, color=look.colour, linestyle=style, linewidth=1.4)
        steps, values = loss_curves(records[row], VALIDATION_LOSS)
        axes.plot(steps, values, linestyle="", clip_on=False, zorder=3, **marker)
        handles.append(Line2D([], [], linestyle=style, label=look.label, **marker))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss per supervised token (nats)")
    finish_axes(figure, axes, "both", handles)
