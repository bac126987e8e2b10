"""Every run of a comparison or a search, one a line, for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RunLine:
    """A run.

    Attributes:
        name: Its name.
        texts: Column -> text, what it measured and what tells it from the others.
        settings: What else it sets, in a line.
        seconds: What it took; None where that is not known.
        status: A word, such as "finished".
        error: Why it failed; "" where it did not.
        page: Its own page, as this page names it; "" where it has none.
    """

    name: str
    texts: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    seconds: float | None = None
    status: str = "finished"
    error: str = ""
    page: str = ""


def runs_table(runs: Sequence[RunLine], numbers: Sequence[str] = ()) -> dict[str, Any] | None:
    """What the template shows; None where there are no runs.

    Columns in which no run has a text are left out.

    Args:
        runs: In the order shown.
        numbers: Columns that align right.
    """
    if not runs:
        return None
    columns = dict.fromkeys(name for run in runs for name, text in run.texts.items() if text)
    return {
        "columns": [(name, name in numbers) for name in columns],
        "lines": runs,
        "any_settings": any(run.settings for run in runs),
        "linked": any(run.page for run in runs),
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """Keys and values in a line.

    >>> settings_text({"selection.budget": 0.05, "selection.target_modules": ["k_proj", "v_proj"]})
    'selection.budget 0.05, selection.target_modules k_proj + v_proj'
    """
    return ", ".join(f"{key} {_value(value)}" for key, value in settings.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return " + ".join(f"{key} {_value(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " + ".join(map(_value, value))
    return "none" if value is None else str(value)
