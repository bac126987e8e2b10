"""The page of a search, ``report.html``: its trials, its pictures and its winner, in one file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from smt_ray.documents.search import FAILED, STOPPED, SearchDocument, TrialResult
from smt_ray.reporting.charts.search import key_chart, trials_chart
from smt_ray.reporting.pages.render import drawing, moment, render_page
from smt_ray.reporting.pages.run import Pairs, RunContents, run_sections
from smt_ray.reporting.pages.tables import RunRow, RunsTable
from smt_ray.reporting.text.run import format_seconds
from smt_ray.reporting.text.search import point_text, trial_keys


@dataclass(frozen=True)
class SearchContents:
    """What the page shows of a search.

    Attributes:
        config_text: The contents of ``search.yaml``.
        pages: Run -> the link to its page.
    """

    results: SearchDocument
    winner: RunContents
    config_text: str = ""
    pages: Mapping[str, str] = field(default_factory=dict)


def search_page(contents: SearchContents) -> str:
    """The page as HTML."""
    results, winner = contents.results, contents.winner
    trials = results.trials
    return render_page(
        "search.html",
        title=results.name,
        started=moment(results.started_ms),
        ended=moment(results.ended_ms),
        missing=winner.missing,
        highlights=_highlights(trials),
        runs=_trials(trials, contents.pages),
        curves=drawing(trials_chart(trials, "trials")),
        key_charts=[
            drawing(key_chart(trials, key, f"key-{number}", is_log=key in results.log_keys))
            for number, key in enumerate(trial_keys(trials))
        ],
        winner=winner.name,
        winner_page=contents.pages.get(winner.name, ""),
        run=run_sections(winner),
        best_yaml=results.best_yaml,
        environment=winner.environment,
        config_text=contents.config_text,
    )


def _highlights(trials: Sequence[TrialResult]) -> Pairs:
    counts = Counter(trial.status for trial in trials)
    others = [f"{counts[status]} {status}" for status in (STOPPED, FAILED) if counts[status]]
    seconds = math.fsum(trial.seconds or 0.0 for trial in trials)
    return [
        (_loss_text(trials[0]), "validation loss of the winner"),
        (f"{len(trials):,}", ", ".join(["trials", *others])),
        (format_seconds(seconds), "for all trials together"),
    ]


def _trials(trials: Sequence[TrialResult], pages: Mapping[str, str]) -> RunsTable:
    keys = trial_keys(trials)
    rows = [
        RunRow(
            trial.run or "-",
            {
                "validation loss": _loss_text(trial),
                "step": "" if trial.step is None else str(trial.step),
                **{key: point_text(trial, key) for key in keys},
            },
            seconds=trial.seconds,
            status="winner" if trial is trials[0] else trial.status,
            error=trial.error,
            page=pages.get(trial.run or "", ""),
        )
        for trial in trials
    ]
    return RunsTable(rows, ("validation loss", "step", *keys))


def _loss_text(trial: TrialResult) -> str:
    return "" if trial.loss is None else f"{trial.loss:.4f}"
