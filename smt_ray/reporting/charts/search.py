"""The pictures of a search: the losses by step, and the last loss over each key.

All functions take the trials with the winner first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smt_ray.documents.search import FAILED, FINISHED, RUNNING, STOPPED, TrialResult, TrialStatus
from smt_ray.reporting.charts.run import new_figure
from smt_ray.reporting.charts.svg import svg_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue, orange and grey by Okabe and Ito; the markers differ in print too.
_LOOKS: Mapping[TrialStatus, tuple[str, str]] = {
    FINISHED: ("o", "#0072B2"),
    STOPPED: ("v", "#E69F00"),
    FAILED: ("x", "#777777"),
    RUNNING: ("s", "#777777"),
}
_LOSS = "validation loss (nats)"
_SIZE = (7.0, 3.8)  # inches
_HEIGHT = 3.3  # inches, in a page
_MOST_TICKS = 4


def save_curves(trials: Sequence[TrialResult], path: Path) -> None:
    """Draws the validation losses of every trial by step; the winner has the thick line."""
    _save(path, lambda figure: _draw_curves(figure, trials))


def save_key(trials: Sequence[TrialResult], key: str, path: Path, *, is_log: bool = False) -> None:
    """Draws the last validation loss of every trial over one key, whose axis may be logarithmic."""
    _save(path, lambda figure: _draw_key(figure, trials, key, is_log))


def trials_chart(trials: Sequence[TrialResult], name: str) -> str:
    """The picture of :func:`save_curves` for a page."""
    label = "Validation loss of every trial over the optimizer steps"
    return svg_chart(name, label, _HEIGHT, lambda figure: _draw_curves(figure, trials))


def key_chart(trials: Sequence[TrialResult], key: str, name: str, *, is_log: bool = False) -> str:
    """The picture of :func:`save_key` for a page."""
    label = f"Validation loss of every trial over {key}"
    return svg_chart(name, label, _HEIGHT, lambda figure: _draw_key(figure, trials, key, is_log))


def _save(path: Path, draw: Callable[[Figure], None]) -> None:
    figure = new_figure(*_SIZE)
    draw(figure)
    figure.savefig(path, dpi=150)


def _draw_curves(figure: Figure, trials: Sequence[TrialResult]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for number, trial in reversed(list(enumerate(trials))):
        if not trial.history:
            continue
        marker, colour = _LOOKS[trial.status]
        steps, losses = zip(*trial.history, strict=True)
        axes.plot(
            steps, losses, marker=marker, color=colour, markersize=4,
            linewidth=1 if number else 2.5, alpha=0.6 if number else 1.0,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    _finish(figure, axes, trials)


def _draw_key(figure: Figure, trials: Sequence[TrialResult], key: str, is_log: bool) -> None:
    axes = figure.subplots()
    shown = [(trial, trial.loss) for trial in trials if trial.loss is not None]
    places, names = _places([trial.point.get(key) for trial, _ in shown])
    for place, (trial, loss) in zip(places, shown, strict=True):
        marker, colour = _LOOKS[trial.status]
        size = 90 if trial is trials[0] else 36
        axes.scatter([place], [loss], marker=marker, color=colour, s=size, zorder=3)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.15)
    elif shown:
        _scale(axes, places, is_log)
    axes.set_xlabel(key)
    _finish(figure, axes, trials)


def _scale(axes: Axes, values: Sequence[float], is_log: bool) -> None:
    """The axis of a key with numbers, which has a tick for each number if they are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    distinct = sorted(set(values))
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(distinct) <= _MOST_TICKS:
        axes.set_xticks(distinct)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _places(values: Sequence[Any]) -> tuple[list[float], list[str]]:
    """The positions of values on an axis and, if they are not numbers, the names of the positions.

    >>> _places([0.1, 2])
    ([0.1, 2], [])
    >>> _places(["b", "a", "b"])
    ([0, 1, 0], ['b', 'a'])
    """
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return list(values), []
    names = list(dict.fromkeys(str(value) for value in values))
    return [names.index(str(value)) for value in values], names


def _finish(figure: Figure, axes: Axes, trials: Sequence[TrialResult]) -> None:
    for status in dict.fromkeys(trial.status for trial in trials):
        marker, colour = _LOOKS[status]
        axes.plot([], [], marker, color=colour, label=status)
    axes.set_ylabel(_LOSS)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, handletextpad=0.3)
