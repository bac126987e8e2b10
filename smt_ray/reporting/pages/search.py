"""A search's page, ``report.html``: its trials, its pictures and its winner, in one file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smt_ray.reporting.charts.search import key_chart, trials_chart
from smt_ray.reporting.pages.render import drawing, moment, render_page
from smt_ray.reporting.pages.run import RunContents, page_sections
from smt_ray.reporting.pages.runs_table import RunLine, runs_table
from smt_ray.reporting.text.run import format_seconds
from smt_ray.reporting.text.search import trial_keys, value_text

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class SearchContents:
    """What a search left behind, as plain values.

    Attributes:
        results: ``search.json``; see :mod:`smt_ray.reporting.text.search`.
        winner: The run that won.
        config_text: ``search.yaml``, what was asked.
        pages: Run -> its own page, as this one names it.
    """

    results: Mapping[str, Any]
    winner: RunContents
    config_text: str = ""
    pages: Mapping[str, str] = field(default_factory=dict)


def search_page(contents: SearchContents) -> str:
    """The page as HTML."""
    results, winner = contents.results, contents.winner
    trials = results["trials"]
    return render_page(
        "search.html",
        **{
            **page_sections(winner),
            "title": results["name"],
            "started": moment(results.get("started_ms")),
            "ended": moment(results.get("ended_ms")),
            "highlights": _highlights(trials),
            "config_text": contents.config_text,
        },
        winner=winner.name,
        winner_page=contents.pages.get(winner.name, ""),
        best_yaml=results["best_yaml"],
        curves=drawing(trials_chart(trials, "trials")),
        keys=[
            drawing(key_chart(trials, key, f"key-{number}", is_log=key in results["log_keys"]))
            for number, key in enumerate(trial_keys(trials))
        ],
        runs=_trials(trials, contents.pages),
    )


def _highlights(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first: (number, what it is) pairs."""
    counts = Counter(trial["status"] for trial in trials)
    others = [f"{counts[name]} {name}" for name in ("stopped early", "failed") if counts[name]]
    seconds = math.fsum(trial["seconds"] or 0.0 for trial in trials)
    return [
        (f"{trials[0]['loss']:.4f}", "validation loss of the winner"),
        (f"{len(trials):,}", ", ".join(["trials", *others])),
        (format_seconds(seconds), "for all trials together"),
    ]


def _trials(trials: Sequence[Trial], pages: Mapping[str, str]) -> dict[str, Any] | None:
    keys = trial_keys(trials)
    lines = [
        RunLine(
            trial["run"] or "-",
            {
                "validation loss": "" if trial["loss"] is None else f"{trial['loss']:.4f}",
                "step": value_text(trial["step"]),
                **{key: value_text(trial["point"].get(key)) for key in keys},
            },
            "",
            trial["seconds"],
            "won" if number == 0 else trial["status"],
            trial["error"],
            pages.get(trial["run"] or "", ""),
        )
        for number, trial in enumerate(trials)
    ]
    return runs_table(lines, ("validation loss", "step", *keys))
