"""A run's page, ``report.html``: everything that its artifacts say, in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smt_ray.reporting.charts.run import loss_curves
from smt_ray.reporting.charts.svg import WHO, Estimate, accuracy_chart, curves_chart
from smt_ray.reporting.pages.render import drawing, moment, render_page
from smt_ray.reporting.pages.selection_map import selection_map
from smt_ray.reporting.pages.time_table import TimeLine, time_table
from smt_ray.reporting.pages.weight_grid import Weight
from smt_ray.reporting.pages.wrong_answers import Predictions, wrong_answers
from smt_ray.reporting.text.run import LEGEND, accuracy_cells, facts, mean, task_lines

NUM_WRONG_ANSWERS = 20


@dataclass(frozen=True)
class RunContents:
    """What a run left behind, as plain values; what is empty has no section in the page.

    Attributes:
        name: The run's.
        status: ``FINISHED``, ``FAILED``, ...
        started_ms, ended_ms: Milliseconds since the epoch, where known.
        metrics: ``metrics.json``; see :mod:`smt_ray.reporting.text.run`.
        config: The complete configuration as plain values.
        config_text: The same, as it was written.
        datasets: ``name``, ``source``, ``num_rows`` and ``digest`` of the rows that were read.
        environment: ``environment.json``.
        records: Training's records of ``metrics.jsonl``.
        weights: Every eligible weight with its chosen blocks.
        predictions: ``base``, ``tuned`` -> task -> predictions.
        missing: Places of artifacts that the run names and that are gone.
    """

    name: str
    status: str = "FINISHED"
    started_ms: int | None = None
    ended_ms: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    datasets: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    weights: Sequence[Weight] = ()
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    missing: Sequence[str] = ()


def run_page(run: RunContents) -> str:
    """The page as HTML."""
    return render_page(
        "run.html",
        method=run.metrics.get("method"),
        status=run.status.lower(),
        stages=_stages(run.metrics),
        **page_sections(run),
    )


def page_sections(run: RunContents) -> dict[str, Any]:
    """What a template shows of a run, in its own page or another's."""
    predictions = run.predictions
    return {
        "title": run.name,
        "started": moment(run.started_ms),
        "ended": moment(run.ended_ms),
        "missing": run.missing,
        "highlights": _highlights(run.metrics),
        "facts": run_facts(run),
        "datasets": run.datasets,
        "config_text": run.config_text,
        "accuracy": _accuracy(run.metrics),
        "loss": _loss(run.records),
        "selection": selection_map(run.weights),
        "wrong": wrong_answers(
            predictions.get("tuned", {}), predictions.get("base"), NUM_WRONG_ANSWERS
        ),
        "environment": run.environment,
    }


def _highlights(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first: (number, what it is) pairs."""
    tasks = (metrics.get("tasks") or {}).values()
    tuned, base = (
        mean([(task.get(who) or {}).get("accuracy") for task in tasks]) for who in ("tuned", "base")
    )
    over = f", average of {len(tasks)} tasks" if len(tasks) > 1 else ""
    found = []
    if tuned is not None:
        found.append((f"{tuned:.1%}", f"correct after tuning{over}"))
    if tuned is not None and base is not None:
        found.append((f"{100 * (tuned - base):+.1f}", f"points over the base's {base:.1%}"))
    if trainable := metrics.get("trainable"):
        found.append((f"{trainable['percent_of_base']:.2f}%", "of the parameters trained"))
    return found


def run_facts(run: RunContents) -> list[tuple[str, str]]:
    """What was trained and how: (what, text) pairs; the whole configuration stands elsewhere."""
    pairs = facts(run.metrics)
    training = run.config.get("training")
    if not training:
        return pairs
    steps = (run.metrics.get("training") or {}).get("num_steps")
    length = f"{steps:,} steps of {training['batch_size']} rows" if steps else ""
    rate = f"learning rate {training['learning_rate']:g}, {training['lr_schedule']}"
    ramp = training["lr_warmup_steps"]
    words = [length, rate, f"ramp of {ramp} steps" if ramp else "", f"seed {run.config['seed']}"]
    return [*pairs, ("training", ", ".join(word for word in words if word))]


def _accuracy(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    cells = accuracy_cells(metrics)
    if cells is None:
        return None
    lines = [line for name, task in metrics["tasks"].items() for line in task_lines(name, task)]
    rows = {name: _estimates(results) for name, results in lines}
    return {"cells": cells, "legend": LEGEND, "chart": drawing(accuracy_chart(rows, "accuracy"))}


def _estimates(results: Mapping[str, Any]) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for who in WHO:
        if who == "majority" and results.get(who) is not None:
            found[who] = (results[who],) * 3
        elif result := results.get(who):
            found[who] = (result["accuracy"], *(result.get("interval") or [result["accuracy"]] * 2))
    return found


def _loss(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    steps, values = loss_curves(records, "train/loss")
    if not values:
        return None
    checked, losses = loss_curves(records, "validation/loss")
    lowest = min(losses, default=math.nan)
    return {
        "chart": drawing(curves_chart(records, "loss")),
        "last": (values[-1], steps[-1]),
        "lowest": (lowest, checked[losses.index(lowest)]) if losses else None,
        "last_validation": (losses[-1], checked[-1]) if losses else None,
    }


def _stages(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    return time_table(
        "kept in",
        [
            TimeLine(
                kind,
                stage.get("seconds"),
                stage.get("stage") or "",
                reused=bool(stage.get("reused")),
            )
            for kind, stage in (metrics.get("stages") or {}).items()
        ],
    )
