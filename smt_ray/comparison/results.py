"""The results of a comparison: cells, claims, learning rates and runs, as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from smt_ray.comparison.claims import answer_claims
from smt_ray.comparison.measured import (
    Measured,
    RunMeasures,
    measure_cell,
    measure_run,
    read_weights,
)
from smt_ray.comparison.statistics import accuracies
from smt_ray.config.comparison import LEARNING_RATE, Cell, CellRuns, ComparisonConfig, Overrides
from smt_ray.config.run import RunConfig
from smt_ray.documents.averages import mean
from smt_ray.documents.comparison import (
    CellResult,
    ComparisonDocument,
    RunLine,
    TableResult,
    TriedRates,
    WeightBlocks,
)
from smt_ray.documents.module_names import parse_module_name
from smt_ray.grid.learning_rates import Tuning, validation_loss
from smt_ray.grid.runs import Outcome
from smt_ray.run.record import now_ms

Outcomes = Mapping[str, Outcome]
"""Run -> its outcome."""


def collect_results(
    config: ComparisonConfig,
    tuning: Tuning,
    cells: Sequence[CellRuns],
    outcomes: Outcomes,
    started_ms: int,
) -> ComparisonDocument:
    """The content of ``comparison.json``.

    Raises:
        UserError: An artifact of a run cannot be read.
    """
    return ComparisonDocument(
        name=config.name,
        seeds=config.seeds,
        started_ms=started_ms,
        ended_ms=now_ms(),
        tables=_tables(config, cells, outcomes),
        learning_rates={group: _tried_rates(group, tuning) for group in tuning.runs},
        learning_rates_for=config.learning_rates_for,
        runs=_run_lines(config, tuning, cells, outcomes),
    )


def _tables(
    config: ComparisonConfig, cells: Sequence[CellRuns], outcomes: Outcomes
) -> dict[str, TableResult]:
    runs = {name: measure_run(done) for name, done in outcomes.items() if not done.error}
    tables = {}
    for name, table in config.tables.items():
        rows: dict[str, dict[str, CellResult]] = {}
        measured: dict[Cell, Measured] = {}
        for cell in cells:
            if cell.table == name:
                result, found = _measure(cell, table.columns == "projections", outcomes, runs)
                rows.setdefault(cell.row, {})[cell.column] = result
                if found:
                    measured[cell.row, cell.column] = found
        tables[name] = TableResult(
            title=table.title,
            columns=table.columns if isinstance(table.columns, str) else list(table.columns),
            rows=rows,
            claims=answer_claims(table, measured),
        )
    return tables


def _measure(
    cell: CellRuns, reads_weights: bool, outcomes: Outcomes, runs: Mapping[str, RunMeasures]
) -> tuple[CellResult, Measured | None]:
    """The result of a cell and, unless a run failed, its measurements."""
    done = [outcomes[run.name] for run in cell.runs]
    result = CellResult(
        runs=[run.name for run in cell.runs],
        errors=[outcome.error for outcome in done if outcome.error],
        learning_rate=_learning_rate(cell.runs[0], done[0]),
    )
    if result.errors:
        return result, None
    weights = read_weights(done[0]) if reads_weights else None
    eligible = [parse_module_name(weight.module)[1] for weight in weights or ()]
    measured = measure_cell([runs[run.name] for run in cell.runs], eligible)
    return _with_measurements(result, done, measured, weights), measured


def _with_measurements(
    result: CellResult,
    outcomes: Sequence[Outcome],
    measured: Measured,
    weights: list[WeightBlocks] | None,
) -> CellResult:
    first = outcomes[0].metrics
    assert first is not None
    seconds = measured.step_seconds or []
    found = accuracies(measured.correct) if measured.correct else None
    return CellResult(
        runs=result.runs,
        learning_rate=result.learning_rate,
        percent_of_base=first.trainable.percent_of_base if first.trainable else None,
        validation_loss=mean([validation_loss(outcome) for outcome in outcomes]),
        projections=first.selection.projections if first.selection else None,
        shares=measured.shares,
        modules=weights,
        batching=first.ran.batching if first.ran else None,
        step_seconds=float(np.median(seconds)) if seconds else None,
        step_seconds_by_seed=seconds,
        tasks={task: share.value for task, share in found.tasks.items()} if found else None,
        task_intervals={task: (share.low, share.high) for task, share in found.tasks.items()}
        if found
        else {},
        average=found.average if found else None,
        retention=_retention(outcomes),
        by_seed=_averages(measured, len(outcomes)),
    )


def _retention(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The change of the loss on each text that was not trained on, as a mean over seeds."""
    changes: dict[str, list[float]] = {}
    for outcome in outcomes:
        for name, kept in (outcome.metrics.retention if outcome.metrics else {}).items():
            if kept.base and kept.tuned:
                changes.setdefault(name, []).append(kept.tuned.loss - kept.base.loss)
    return {name: float(np.mean(values)) for name, values in changes.items()}


def _averages(measured: Measured, num_seeds: int) -> list[float]:
    """The average accuracy of each seed."""
    if not measured.correct:
        return []
    tasks = measured.correct.values()
    return [float(np.mean([rows[i].mean() for rows in tasks])) for i in range(num_seeds)]


def _learning_rate(run: RunConfig, outcome: Outcome) -> float | None:
    """The learning rate of a run; None if none could be chosen."""
    return run.training.learning_rate if outcome.started else None


def _tried_rates(group: str, tuning: Tuning) -> TriedRates:
    return TriedRates(
        chosen=tuning.chosen.get(group),
        validation_loss={
            f"{rate:g}": validation_loss(tuning.outcomes[run.name])
            for rate, run in tuning.runs[group].items()
        },
    )


def _run_lines(
    config: ComparisonConfig, tuning: Tuning, cells: Sequence[CellRuns], outcomes: Outcomes
) -> dict[str, RunLine]:
    """Every run once: first those that tried learning rates, then those of the cells."""
    lines: dict[str, RunLine] = {}
    for group, settings in config.rate_groups().items():
        for run in tuning.runs[group].values():
            # A run that is a cell's too continued to its evaluation.
            outcome = outcomes.get(run.name) or tuning.outcomes[run.name]
            lines[run.name] = _run_line(run, settings, outcome)
    for cell in cells:
        for run in cell.runs:
            if run.name not in lines:
                lines[run.name] = _run_line(run, cell.settings, outcomes[run.name])
    return lines


def _run_line(run: RunConfig, settings: Overrides, outcome: Outcome) -> RunLine:
    metrics = outcome.metrics
    return RunLine(
        method=run.method,
        learning_rate=_learning_rate(run, outcome),
        seed=run.seed,
        sets={k: v for k, v in settings.items() if k not in ("method", LEARNING_RATE)},
        accuracy=metrics.average("tuned") if metrics else None,
        seconds=metrics.seconds if metrics else None,
        reused=outcome.reused,
        error=outcome.error,
        folder=outcome.folder.uri,
    )
