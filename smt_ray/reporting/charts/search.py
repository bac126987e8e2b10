"""The pictures of a search: losses on the way, and the last one over each key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smt_ray.reporting.charts.run import new_figure
from smt_ray.reporting.charts.svg import svg_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's blue, orange and grey; markers tell them apart in print.
_LOOKS = {
    "finished": ("o", "#0072B2"),
    "stopped early": ("v", "#E69F00"),
    "failed": ("x", "#777777"),
}
_LOSS = "validation loss (nats)"
_SIZE = (7.0, 3.8)  # inches
_HEIGHT = 3.3  # inches, in a page
_FEW = 4

Trial = Mapping[str, Any]


def save_curves(trials: Sequence[Trial], path: Path) -> Path:
    """Every trial's validation loss by step, as a PNG; the winner is the thick one.

    Args:
        trials: As :func:`smt_ray.search.outcomes.read_trials` gives them.
        path: The picture.
    """
    return _save(path, lambda figure: _draw_curves(figure, trials))


def save_key(trials: Sequence[Trial], key: str, path: Path, *, is_log: bool = False) -> Path:
    """The last validation loss of every trial over one key, as a PNG.

    Args:
        trials: As for :func:`save_curves`.
        key: The dotted key.
        path: The picture.
        is_log: Whether the key is drawn on a logarithmic scale.
    """
    return _save(path, lambda figure: _draw_key(figure, trials, key, is_log))


def trials_chart(trials: Sequence[Trial], name: str) -> str:
    """What :func:`save_curves` shows, for a page.

    Args:
        trials: As for :func:`save_curves`.
        name: What tells its parts from those of the page's other charts.
    """
    label = "Validation loss of every trial over the optimizer steps"
    return svg_chart(name, label, _HEIGHT, lambda figure: _draw_curves(figure, trials))


def key_chart(trials: Sequence[Trial], key: str, name: str, *, is_log: bool = False) -> str:
    """What :func:`save_key` shows, for a page."""
    label = f"Validation loss of every trial over {key}"
    return svg_chart(name, label, _HEIGHT, lambda figure: _draw_key(figure, trials, key, is_log))


def _save(path: Path, draw: Callable[[Figure], None]) -> Path:
    figure = new_figure(*_SIZE)
    draw(figure)
    figure.savefig(path, dpi=150)
    return path


def _draw_curves(figure: Figure, trials: Sequence[Trial]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for number, trial in reversed(list(enumerate(trials))):
        if not trial["history"]:
            continue
        marker, colour = _LOOKS[trial["status"]]
        steps, losses = zip(*trial["history"], strict=True)
        axes.plot(
            steps, losses, marker=marker, color=colour, markersize=4,
            linewidth=1 if number else 2.5, alpha=0.6 if number else 1.0,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimizer step")
    _finish(figure, axes, trials)


def _draw_key(figure: Figure, trials: Sequence[Trial], key: str, is_log: bool) -> None:
    axes = figure.subplots()
    shown = [trial for trial in trials if trial["loss"] is not None]
    places, names = _places([trial["point"].get(key) for trial in shown])
    for place, trial in zip(places, shown, strict=True):
        marker, colour = _LOOKS[trial["status"]]
        size = 90 if trial is trials[0] else 36
        axes.scatter([place], [trial["loss"]], marker=marker, color=colour, s=size, zorder=3)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.15)
    elif shown:
        _scale(axes, places, is_log)
    axes.set_xlabel(key)
    _finish(figure, axes, trials)


def _scale(axes: Axes, values: Sequence[float], is_log: bool) -> None:
    """An axis of numbers: of few, each has its tick; a logarithmic one has plain labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    distinct = sorted(set(values))
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(distinct) <= _FEW:
        axes.set_xticks(distinct)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _places(values: Sequence[Any]) -> tuple[list[float], list[str]]:
    """Where values stand on an axis, and the names of places where they are no numbers.

    >>> _places([0.1, 2])
    ([0.1, 2], [])
    >>> _places(["b", "a", "b"])
    ([0, 1, 0], ['b', 'a'])
    """
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return list(values), []
    names = list(dict.fromkeys(str(value) for value in values))
    return [names.index(str(value)) for value in values], names


def _finish(figure: Figure, axes: Axes, trials: Sequence[Trial]) -> None:
    for status in dict.fromkeys(trial["status"] for trial in trials):
        marker, colour = _LOOKS[status]
        axes.plot([], [], marker, color=colour, label=status)
    axes.set_ylabel(_LOSS)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, handletextpad=0.3)
