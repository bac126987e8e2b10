"""A comparison's page, ``report.html``: its answers, its tables and its runs, in one file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smt_ray.reporting.charts.comparison import losses_chart, table_chart, tasks_chart
from smt_ray.reporting.pages.claims import answered_claims
from smt_ray.reporting.pages.render import drawing, moment, render_page
from smt_ray.reporting.pages.run import NUM_WRONG_ANSWERS, RunContents, run_facts
from smt_ray.reporting.pages.runs_table import RunLine, runs_table, settings_text
from smt_ray.reporting.pages.selection_map import Selections, selection_map, selection_maps
from smt_ray.reporting.pages.time_table import TimeLine, time_table
from smt_ray.reporting.pages.wrong_answers import wrong_answers
from smt_ray.reporting.text.comparison import (
    Lines,
    legend_text,
    table_lines,
    task_interval_lines,
)
from smt_ray.reporting.text.console import Cells
from smt_ray.reporting.text.learning_rates import rates_text
from smt_ray.reporting.text.run import format_seconds


@dataclass(frozen=True)
class ComparisonContents:
    """What a comparison left behind, as plain values; what is empty has no section in the page.

    Attributes:
        results: ``comparison.json``; see :mod:`smt_ray.reporting.text.comparison`.
        config_text: ``comparison.yaml``.
        reference: The run that stands for what all have in common; its blocks and wrong answers
            are shown.
        stages: Run -> its stages, from its ``run.json``.
        records: Row -> training's records of one of its runs, of the table that compares methods.
        selections: Table -> cell -> the chosen blocks, of tables whose cells chose differently.
        pages: Run -> its own page, as this one names it.
        missing: Places of artifacts that are gone.
    """

    results: Mapping[str, Any]
    config_text: str = ""
    reference: RunContents | None = None
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    records: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    selections: Mapping[str, Selections] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()


def comparison_page(contents: ComparisonContents) -> str:
    """The page as HTML."""
    results = contents.results
    reference = contents.reference or RunContents("")
    anchors = table_anchors(results["tables"])
    claims = answered_claims(results["tables"], anchors)
    times = _times(contents.stages)
    predictions = reference.predictions
    return render_page(
        "comparison.html",
        title=results["name"],
        started=moment(results.get("started_ms")),
        ended=moment(results.get("ended_ms")),
        missing=dict.fromkeys([*contents.missing, *reference.missing]),
        highlights=_highlights(results, claims, times),
        num_failed=sum(bool(run["error"]) for run in results["runs"].values()),
        claims=claims,
        legend=legend_text(results),
        reference=reference,
        reference_page=contents.pages.get(reference.name, ""),
        facts=_facts(results, reference),
        rates=_rates(rates := results.get("learning_rates") or {}),
        rates_text=rates_text(results) if rates else "",
        table_sections=[(anchor, name, True) for name, anchor in anchors.items()],
        tables=[_table(name, anchors[name], contents) for name in results["tables"]],
        loss=drawing(losses_chart(contents.records, "loss")),
        selection=selection_map(reference.weights),
        wrong=wrong_answers(
            predictions.get("tuned", {}), predictions.get("base"), NUM_WRONG_ANSWERS
        ),
        runs=_runs(results["runs"], contents.pages),
        stages=times,
        environment=reference.environment,
        config_text=contents.config_text,
    )


def table_anchors(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Where each table stands in the page.

    >>> table_anchors(["methods", "K, Q, V", "K/Q/V"])
    {'methods': 'table-methods', 'K, Q, V': 'table-K-Q-V', 'K/Q/V': 'table-K-Q-V-2'}
    """
    anchors: dict[str, str] = {}
    for name in names:
        plain = "table-" + re.sub(r"\W+", "-", name, flags=re.ASCII).strip("-")
        anchor, number = plain, 1
        while anchor in anchors.values():
            number += 1
            anchor = f"{plain}-{number}"
        anchors[name] = anchor
    return anchors


def _highlights(
    results: Mapping[str, Any], claims: Mapping[str, Any] | None, times: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first: (number, what it is) pairs."""
    found = []
    if claims:
        counts = claims["counts"]
        found.append((f"{counts['held']} of {counts.total()}", "claims held"))
        found += [
            (str(counts[verdict]), verdict)
            for verdict in ("reversed", "not resolved")
            if counts[verdict]
        ]
    runs = results["runs"].values()
    failed = sum(bool(run["error"]) for run in runs)
    reused = sum(bool(run.get("reused")) for run in runs)
    words = [f"{failed} failed" if failed else "", f"{reused} found finished" if reused else ""]
    found.append((f"{len(runs):,}", ", ".join(["runs", *filter(None, words)])))
    seconds = times["total"] if times else math.fsum(run.get("seconds") or 0.0 for run in runs)
    return [*found, (format_seconds(seconds), "for all runs together")] if seconds else found


def _facts(results: Mapping[str, Any], reference: RunContents) -> list[tuple[str, str]]:
    metrics = {key: value for key, value in reference.metrics.items() if key != "paths"}
    seeds = ("seeds", ", ".join(map(str, results["seeds"])))
    described = RunContents(reference.name, metrics=metrics, config=reference.config)
    return [*run_facts(described), seeds]


def _rates(rates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each method what was tried, and whether the best is at an end of it."""
    lines = []
    for method, tried in rates.items():
        losses = tried["validation_loss"]
        chosen = "" if tried["chosen"] is None else f"{tried['chosen']:g}"
        ends = {min(losses, key=float): "lowest", max(losses, key=float): "highest"}
        lines.append(
            {
                "method": method,
                "tried": [
                    (rate, "failed" if loss is None else f"{loss:.4f}", rate == chosen)
                    for rate, loss in losses.items()
                ],
                "end": ends.get(chosen) if len(losses) > 1 else None,
            }
        )
    return lines


def _table(name: str, anchor: str, contents: ComparisonContents) -> dict[str, Any]:
    table = contents.results["tables"][name]
    by_task = tasks_chart(table, f"{anchor}-by-task") if table["columns"] == "tasks" else None
    return {
        "name": name,
        "anchor": anchor,
        "title": table["title"],
        "columns": table["columns"],
        "cells": _cells(table_lines(table)),
        "chart": drawing(table_chart(table, anchor)),
        "by_task": drawing(by_task),
        "task_cells": _cells(task_interval_lines(table)) if by_task else None,
        "claims": answered_claims({name: table}, {name: anchor}),
        "selections": selection_maps(contents.selections.get(name, {})),
    }


def _cells(lines: Lines) -> Cells | None:
    if not lines:
        return None
    head, *rows = (tuple(line) for line in lines)
    return Cells(head, tuple(rows), len(head) - 1)


def _runs(runs: Mapping[str, Any], pages: Mapping[str, str]) -> dict[str, Any] | None:
    lines = []
    for name, run in runs.items():
        rate, accuracy = run.get("learning_rate"), run.get("accuracy")
        found = "trained" if accuracy is None else "finished"  # a learning rate needs no test rows
        found += " before" if run.get("reused") else ""
        texts = {
            "accuracy": "" if accuracy is None else f"{accuracy:.1%}",
            "method": run.get("method", ""),
            "learning rate": "" if rate is None else f"{rate:g}",
            "seed": str(run.get("seed", "")),
        }
        lines.append(
            RunLine(
                name,
                texts,
                settings_text(run.get("sets", {})),
                run.get("seconds"),
                "failed" if run["error"] else found,
                run["error"],
                pages.get(name, ""),
            )
        )
    return runs_table(lines, ("learning rate", "seed", "accuracy"))


def _times(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Time by kind of stage; one that several runs share counts once."""
    kinds: dict[str, dict[str, float]] = {}
    for of_run in stages.values():
        for kind, stage in of_run.items():
            kinds.setdefault(kind, {})[stage["stage"]] = stage.get("seconds") or 0.0
    lines = [
        TimeLine(kind, math.fsum(made.values()), f"{len(made):,}") for kind, made in kinds.items()
    ]
    return time_table("made", lines)
