"""The pictures of a search: losses on the way, and the last one over each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smt_ray.reporting.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's blue, orange and grey; markers tell them apart in print.
_LOOKS = {
    "finished": ("o", "#0072B2"),
    "stopped early": ("v", "#E69F00"),
    "failed": ("x", "#777777"),
}
_LOSS = "validation loss per supervised token (nats)"
_SIZE = (7.0, 3.8)  # inches

Trial = Mapping[str, Any]


def draw_curves(trials: Sequence[Trial], path: Path) -> Path:
    """Every trial's validation loss by step; the winner, the first, is the thick one."""
    figure = new_figure(*_SIZE)
    axes = figure.subplots()
    for number, trial in reversed(list(enumerate(trials))):
        if not trial["history"]:
            continue
        marker, colour = _LOOKS[trial["status"]]
        steps, losses = zip(*trial["history"], strict=True)
        axes.plot(
            steps, losses, marker=marker, color=colour, markersize=4,
            linewidth=1 if number else 2.5, alpha=1.0 if not number else 0.6,
        )  # fmt: skip
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(_LOSS)
    _finish(axes, trials)
    figure.savefig(path, dpi=150)
    return path


def draw_key(trials: Sequence[Trial], key: str, path: Path, *, is_log: bool = False) -> Path:
    """The last validation loss of every trial over one key.

    Args:
        trials: As :func:`smt_ray.orchestration.trial_outcomes.read_trials` gives them.
        key: The dotted key.
        path: The PNG.
        is_log: Whether the key is drawn on a logarithmic scale.
    """
    figure = new_figure(*_SIZE)
    axes = figure.subplots()
    shown = [trial for trial in trials if trial["loss"] is not None]
    values = [trial["point"].get(key) for trial in shown]
    places, names = _places(values)
    for place, trial in zip(places, shown, strict=True):
        marker, colour = _LOOKS[trial["status"]]
        size = 90 if trial is trials[0] else 36
        axes.scatter([place], [trial["loss"]], marker=marker, color=colour, s=size, zorder=3)
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.15)
    elif is_log:
        axes.set_xscale("log")
    axes.set_xlabel(key)
    axes.set_ylabel(_LOSS)
    _finish(axes, trials)
    figure.savefig(path, dpi=150)
    return path


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


def _finish(axes: Axes, trials: Sequence[Trial]) -> None:
    for status in dict.fromkeys(trial["status"] for trial in trials):
        marker, colour = _LOOKS[status]
        axes.plot([], [], marker, color=colour, label=status)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
