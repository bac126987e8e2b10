"""The page of a comparison, ``report.html``: its claims, its tables and its runs, in one file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smt_ray.documents.comparison import ComparisonDocument, RunLine, TableResult, TriedRates
from smt_ray.documents.run import Paths, StageEntry
from smt_ray.reporting.charts.comparison import table_chart, tasks_chart
from smt_ray.reporting.charts.losses import Records, losses_chart
from smt_ray.reporting.pages.claims import ClaimTable, claim_table
from smt_ray.reporting.pages.render import drawing, moment, render_page
from smt_ray.reporting.pages.run import Pairs, RunContents, run_facts, run_wrong_answers
from smt_ray.reporting.pages.selection_map import (
    SelectionMaps,
    Selections,
    selection_map,
    selection_maps,
)
from smt_ray.reporting.pages.tables import RunRow, RunsTable, TimeRow, TimeTable
from smt_ray.reporting.text.comparison import legend_text, table_cells, task_interval_cells
from smt_ray.reporting.text.learning_rates import rates_text
from smt_ray.reporting.text.run import format_seconds
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import settings_text, stage_text

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class ComparisonContents:
    """What the page shows of a comparison; what is empty has no section.

    Attributes:
        config_text: The contents of ``comparison.yaml``.
        reference: The run whose settings, blocks and wrong answers are shown.
        stages: Run -> its stages, from ``run.json``.
        records: Row of the table that compares methods -> the training's records of one run.
        selections: Table -> cell -> the chosen blocks, of tables whose cells chose differently.
        pages: Run -> the link to its page.
        missing: The places of artifacts that do not exist.
    """

    results: ComparisonDocument
    config_text: str = ""
    reference: RunContents | None = None
    stages: Mapping[str, Mapping[str, StageEntry]] = field(default_factory=dict)
    records: Records = field(default_factory=dict)
    selections: Mapping[str, Selections] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class TriedRate:
    """A learning rate that was tried.

    Attributes:
        result: The validation loss, or "failed".
    """

    rate: str
    result: str
    is_chosen: bool


@dataclass(frozen=True)
class RatesRow:
    """The learning rates of a method.

    Attributes:
        end: "lowest" or "highest" if this one was chosen, so that a better one may lie beyond.
    """

    method: str
    tried: Sequence[TriedRate]
    end: str


@dataclass(frozen=True)
class TableSection:
    """The section of a table; None for a part that is left out."""

    table: TableResult
    anchor: str
    cells: Cells
    chart: Markup | None
    task_chart: Markup | None
    task_cells: Cells | None
    claims: ClaimTable | None
    selections: SelectionMaps | None


def comparison_page(contents: ComparisonContents) -> str:
    """The page as HTML."""
    results = contents.results
    reference = contents.reference or RunContents("")
    anchors = table_anchors(results.tables)
    claims = claim_table(results.tables, anchors)
    times = _times(contents.stages.values())
    return render_page(
        "comparison.html",
        title=results.name,
        started=moment(results.started_ms),
        ended=moment(results.ended_ms),
        missing=dict.fromkeys([*contents.missing, *reference.missing]),
        highlights=_highlights(results, claims, times),
        num_failed=sum(bool(run.error) for run in results.runs.values()),
        claims=claims,
        legend=legend_text(results.seeds),
        reference=reference,
        reference_page=contents.pages.get(reference.name, ""),
        facts=_facts(results, reference),
        rates=[_rates_row(*item) for item in results.learning_rates.items()],
        rates_text=rates_text(results) if results.learning_rates else "",
        table_sections=[(anchor, name, True) for name, anchor in anchors.items()],
        tables=[_table_section(name, anchors[name], contents) for name in results.tables],
        loss=drawing(losses_chart(contents.records, "loss")),
        selection=selection_map(reference.weights),
        wrong=run_wrong_answers(reference),
        runs=_runs(results.runs, contents.pages),
        stages=times,
        environment=reference.environment,
        config_text=contents.config_text,
    )


def table_anchors(names: Iterable[str]) -> dict[str, str]:
    """The anchor of each table in the page.

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
    results: ComparisonDocument, claims: ClaimTable | None, times: TimeTable | None
) -> Pairs:
    found = []
    if claims:
        counts = claims.counts
        found.append((f"{counts['held']} of {counts.total()}", "claims held"))
        for verdict in ("reversed", "not resolved"):
            if counts[verdict]:
                found.append((str(counts[verdict]), verdict))
    runs = results.runs.values()
    failed, reused = sum(bool(run.error) for run in runs), sum(run.reused for run in runs)
    words = ["runs", f"{failed} failed" if failed else "", f"{reused} reused" if reused else ""]
    found.append((f"{len(runs):,}", ", ".join(filter(None, words))))
    seconds = times.total if times else math.fsum(run.seconds or 0.0 for run in runs)
    return [*found, (format_seconds(seconds), "for all runs together")] if seconds else found


def _facts(results: ComparisonDocument, reference: RunContents) -> Pairs:
    metrics = reference.metrics.model_copy(update={"paths": Paths()})
    seeds = ", ".join(map(str, results.seeds))
    return [*run_facts(metrics, reference.config), ("seeds", seeds)]


def _rates_row(method: str, rates: TriedRates) -> RatesRow:
    losses = rates.validation_loss
    chosen = "" if rates.chosen is None else f"{rates.chosen:g}"
    tried = [
        TriedRate(rate, "failed" if loss is None else f"{loss:.4f}", rate == chosen)
        for rate, loss in losses.items()
    ]
    ends = {min(losses, key=float): "lowest", max(losses, key=float): "highest"}
    return RatesRow(method, tried, ends.get(chosen, "") if len(losses) > 1 else "")


def _table_section(name: str, anchor: str, contents: ComparisonContents) -> TableSection:
    table = contents.results.tables[name]
    by_task = tasks_chart(table, f"{anchor}-by-task") if table.columns == "tasks" else None
    return TableSection(
        table,
        anchor,
        cells=table_cells(table),
        chart=drawing(table_chart(table, anchor)),
        task_chart=drawing(by_task),
        task_cells=task_interval_cells(table) if by_task else None,
        claims=claim_table({name: table}, {name: anchor}),
        selections=selection_maps(contents.selections.get(name, {})),
    )


def _runs(runs: Mapping[str, RunLine], pages: Mapping[str, str]) -> RunsTable | None:
    rows = [_run_row(name, run, pages.get(name, "")) for name, run in runs.items()]
    return RunsTable(rows, ("learning rate", "seed", "accuracy")) if rows else None


def _run_row(name: str, run: RunLine, page: str) -> RunRow:
    rate, accuracy = run.learning_rate, run.accuracy
    status = "trained" if accuracy is None else "finished"  # tuning evaluates no test rows
    status += ", reused" if run.reused else ""
    texts = {
        "accuracy": "" if accuracy is None else f"{accuracy:.1%}",
        "method": run.method,
        "learning rate": "" if rate is None else f"{rate:g}",
        "seed": str(run.seed),
    }
    return RunRow(
        name,
        texts,
        settings_text(run.sets),
        run.seconds,
        "failed" if run.error else status,
        run.error,
        page,
    )


def _times(stages: Iterable[Mapping[str, StageEntry]]) -> TimeTable | None:
    """The time by kind of stage; a stage that several runs share counts once."""
    kinds: dict[str, dict[str, float]] = {}
    for of_run in stages:
        for kind, stage in of_run.items():
            kinds.setdefault(kind, {})[stage.stage] = stage.seconds or 0.0
    rows = [
        TimeRow(stage_text(kind), math.fsum(made.values()), f"{len(made):,}")
        for kind, made in kinds.items()
    ]
    return TimeTable("number of stages", rows) if rows else None
