"""Charts of the results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.configurations import PHASES

_COLOURS = {
    "batching": "#bbbbbb",
    "forward": "#4477aa",
    "backward": "#66ccee",
    "optimizer": "#ccbb44",
}


def step_chart(suites: Mapping[str, Any], caption: str, path: Path) -> None:
    """Draws the results of step.py: seconds by phase with the arithmetic limit, and bytes.

    Args:
        suites: The results of step.py by suite.
        caption: The text below the chart, which describes the machine.
        path: The path of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(suites), 2, figsize=(12, 3.4 * len(suites) + 0.6), squeeze=False,
        gridspec_kw={"width_ratios": (3, 2)}, layout="constrained",
    )  # fmt: skip
    for (suite, found), (left, right) in zip(suites.items(), axes, strict=True):
        configurations = found["summary"]["configurations"]
        _draw_seconds(left, configurations)
        _draw_bytes(right, configurations)
        left.set_title(f"{suite}: {found['num_rows'][0]} rows a step", loc="left", fontsize=10)
        right.tick_params(labelleft=False)
    axes[0][0].legend(fontsize=8)
    axes[0][1].legend(fontsize=8)
    figure.supxlabel(caption, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_seconds(axis: Any, configurations: Mapping[str, Any]) -> None:
    """Draws the median of each phase as a bar, the spread of the step, and a mark at the limit."""
    names = list(configurations)
    start = [0.0] * len(names)
    for phase in PHASES:
        width = [configurations[name][f"{phase}_seconds"]["median"] for name in names]
        axis.barh(names, width, left=start, color=_COLOURS[phase], label=phase)
        start = [a + b for a, b in zip(start, width, strict=True)]
    steps = [configurations[name]["step_seconds"] for name in names]
    medians = [step["median"] for step in steps]
    reach = [[s["median"] - s["min"] for s in steps], [s["max"] - s["median"] for s in steps]]
    axis.errorbar(medians, names, xerr=reach, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    limits = [configurations[name]["limit_seconds"]["median"] for name in names]
    axis.plot(limits, names, "|", color="#ee6677", markersize=14, markeredgewidth=2,
              label="arithmetic limit after packing")  # fmt: skip
    axis.invert_yaxis()
    axis.set_xlabel("seconds a step, median; whiskers: minimum to maximum of the rounds")


def _draw_bytes(axis: Any, configurations: Mapping[str, Any]) -> None:
    """Draws the peak of a step beyond the base weights, and the part that a forward saves."""
    names = list(configurations)
    peaks = [configurations[name]["peak_bytes"] / 1e6 for name in names]
    saved = [configurations[name]["saved_bytes"] / 1e6 for name in names]
    axis.barh(names, peaks, color="#bbbbbb", label="peak beyond the base model's weights")
    axis.barh(names, saved, height=0.35, color="#228833", label="saved for backward")
    axis.invert_yaxis()
    axis.set_xlabel("MB")
