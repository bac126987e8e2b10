"""What the runs of a comparison come to: cells, claims, learning rates, every run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from smt_ray.comparison.claims import Measured, answer_claims
from smt_ray.comparison.statistics import Correct, accuracies
from smt_ray.config.comparison import LEARNING_RATE, ComparisonConfig
from smt_ray.config.run import RunConfig
from smt_ray.documents.averages import mean
from smt_ray.documents.module_names import parse_module_name
from smt_ray.grid.runs import Outcome
from smt_ray.run.artifacts import StageArtifacts
from smt_ray.stages.training import METRICS
from smt_ray.tracking.records import parse_records
from smt_ray.training.loop import VALIDATION_LOSS

_RAMP = 0.1  # of a run's first steps, left out of its speed

Cells = list[tuple[str, str, str, list[RunConfig]]]
"""Table, row, column and a run for each seed."""


class Tuning(NamedTuple):
    """The learning rates that were tried.

    Attributes:
        runs: Method -> learning rate -> the run that tried it.
        outcomes: What became of these runs, by name.
        chosen: Method -> learning rate; not of a method of which none could be trained.
    """

    runs: dict[str, dict[float, RunConfig]]
    outcomes: dict[str, Outcome]
    chosen: dict[str, float]


def collect_results(
    config: ComparisonConfig,
    tuning: Tuning,
    cells: Cells,
    outcomes: dict[str, Outcome],
    started_ms: int,
) -> dict[str, Any]:
    """What ``comparison.json`` holds.

    Args:
        config: The comparison.
        tuning: Its learning rates.
        cells: Its cells.
        outcomes: What became of their runs, by name.
        started_ms: When it was started, in milliseconds since the epoch.
    """
    return {
        "name": config.name,
        "seeds": config.seeds,
        "started_ms": started_ms,
        "ended_ms": time.time_ns() // 1_000_000,
        "tables": _tables(config, cells, outcomes),
        "learning_rates": _tried(tuning),
        "runs": _runs(config, tuning, cells, outcomes),
    }


def validation_loss(outcome: Outcome) -> float | None:
    """A run's last validation loss; None where it failed, or the loss is not finite."""
    loss = outcome.metrics.get("training", {}).get(VALIDATION_LOSS)
    return loss if loss is not None and np.isfinite(loss) else None


def _tried(tuning: Tuning) -> dict[str, Any]:
    return {
        method: {
            "chosen": tuning.chosen.get(method),
            "validation_loss": {
                f"{rate:g}": validation_loss(tuning.outcomes[run.name])
                for rate, run in tried.items()
            },
        }
        for method, tried in tuning.runs.items()
    }


def _tables(
    config: ComparisonConfig, cells: Cells, outcomes: dict[str, Outcome]
) -> dict[str, dict[str, Any]]:
    tables: dict[str, Any] = {
        name: {
            "title": table.title,
            "columns": table.columns if isinstance(table.columns, str) else list(table.columns),
            "rows": {},
        }
        for name, table in config.tables.items()
    }
    measured: dict[str, dict[tuple[str, str], Measured]] = {name: {} for name in tables}
    for name, row, column, runs in cells:
        done = [outcomes[run.name] for run in runs]
        cell = {
            "runs": [run.name for run in runs],
            "learning_rate": _learning_rate(runs[0], done[0]),
            "errors": [outcome.error for outcome in done if outcome.error],
        }
        tables[name]["rows"].setdefault(row, {})[column] = cell
        if cell["errors"]:
            continue
        if config.tables[name].columns == "projections":
            cell["modules"] = _modules(done[0])
        found = measured[name][row, column] = _measure(done, cell.get("modules", ()))
        cell |= _cell(done, found)
    for name, table in config.tables.items():
        tables[name]["claims"] = answer_claims(table, measured[name])
    return tables


def _measure(outcomes: list[Outcome], modules: Iterable[Mapping[str, Any]]) -> Measured:
    """What a cell's runs, one a seed, came to."""
    seconds = [_step_seconds(outcome) for outcome in outcomes]
    return Measured(
        _correct(outcomes) if all(outcome.metrics.get("tasks") for outcome in outcomes) else None,
        [found for found in seconds if found] if all(seconds) else None,
        _shares(outcomes, [parse_module_name(module["module"])[1] for module in modules]),
    )


def _cell(outcomes: list[Outcome], measured: Measured) -> dict[str, Any]:
    """What its runs, one a seed, came to, for the tables."""
    first = outcomes[0].metrics
    cell: dict[str, Any] = {
        "percent_of_base": (first.get("trainable") or {}).get("percent_of_base"),
        "projections": (first.get("selection") or {}).get("projections"),
        "shares": measured.shares,
        "batching": (first.get("ran") or {}).get("batching"),
    }
    losses = [validation_loss(outcome) for outcome in outcomes]
    if None not in losses:
        cell["validation_loss"] = mean(losses)
    if seconds := measured.step_seconds:
        cell["step_seconds"] = float(np.median(seconds))
        cell["step_seconds_by_seed"] = seconds
    if correct := measured.correct:
        found = accuracies(correct)
        cell["tasks"] = {task: estimate.value for task, estimate in found.tasks.items()}
        cell["task_intervals"] = {task: [e.low, e.high] for task, e in found.tasks.items()}
        cell["average"] = found.average._asdict()
        cell["by_seed"] = [
            float(np.mean([rows[i].mean() for rows in correct.values()]))
            for i in range(len(outcomes))
        ]
    return cell


def _learning_rate(run: RunConfig, outcome: Outcome) -> float | None:
    """None where none could be chosen."""
    return run.training.learning_rate if outcome.started else None


def _correct(outcomes: list[Outcome]) -> Correct:
    """Which test rows the tuned models answered correctly."""
    found: dict[str, list[list[bool]]] = {}
    for outcome in outcomes:
        storage = outcome.folder.storage
        stage = outcome.metrics["stages"]["evaluation of tuned"]["stage"]
        for task in outcome.metrics["tasks"]:
            lines = storage.read_bytes(f"stages/{stage}/generate/{task}.jsonl").decode()
            records = [json.loads(line) for line in lines.split("\n") if line]
            found.setdefault(task, []).append([record["correct"] for record in records])
    return {task: np.array(rows, dtype=bool) for task, rows in found.items()}


def _step_seconds(outcome: Outcome) -> float | None:
    """The median of a run's steps, without its first; None where an older run did not say."""
    storage = outcome.folder.storage
    stage = outcome.metrics["stages"]["training"]["stage"]
    records = parse_records(storage.read_bytes(f"stages/{stage}/{METRICS}").decode())
    seconds = [
        record["metrics"]["train/step_seconds"]
        for record in records
        if "train/step_seconds" in record["metrics"]
    ]
    return float(np.median(seconds[int(_RAMP * len(seconds)) :])) if seconds else None


def _shares(outcomes: list[Outcome], eligible: list[str]) -> list[dict[str, float]] | None:
    """Of the chosen blocks, by projection; None where a run has chosen none.

    Args:
        outcomes: The runs, one a seed.
        eligible: Projections that have a share though no block of theirs was chosen.
    """
    counts = [
        (outcome.metrics.get("selection") or {}).get("projections") or {} for outcome in outcomes
    ]
    if not all(counts):
        return None
    names = dict.fromkeys([*eligible, *(name for found in counts for name in found)])
    return [{name: found.get(name, 0) / sum(found.values()) for name in names} for found in counts]


def _modules(outcome: Outcome) -> list[dict[str, Any]]:
    """Of every eligible weight of a run how many blocks there are, and how many were chosen."""
    weights = StageArtifacts(outcome.folder.storage, outcome.metrics["stages"]).weights()
    return [
        {"module": weight.name, "chosen": len(weight.blocks), "blocks": weight.num_blocks}
        for weight in weights
    ]


def _runs(
    config: ComparisonConfig, tuning: Tuning, cells: Cells, outcomes: dict[str, Outcome]
) -> dict[str, dict[str, Any]]:
    """Every run once: those that tried learning rates, then the cells'."""
    settings = {name: list(table.cells()) for name, table in config.tables.items()}
    sets = {(name, row, column): o for name, of in settings.items() for row, column, o in of}
    found: dict[str, dict[str, Any]] = {}
    for tried in tuning.runs.values():
        for run in tried.values():
            # Where it is a cell's too, it went on to its evaluation.
            outcome = outcomes.get(run.name) or tuning.outcomes[run.name]
            found[run.name] = _run(run, {}, outcome)
    for name, row, column, runs in cells:
        for run in runs:
            if run.name not in found:
                found[run.name] = _run(run, sets[name, row, column], outcomes[run.name])
    return found


def _run(run: RunConfig, sets: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    tasks = (outcome.metrics.get("tasks") or {}).values()
    return {
        "method": run.method,
        "learning_rate": _learning_rate(run, outcome),
        "seed": run.seed,
        "sets": {k: v for k, v in sets.items() if k not in ("method", LEARNING_RATE)},
        "accuracy": mean([(task.get("tuned") or {}).get("accuracy") for task in tasks]),
        "seconds": outcome.metrics.get("seconds"),
        "reused": outcome.reused,
        "error": outcome.error,
        "folder": outcome.folder.uri,
    }
