"""What the runs of a comparison come to: cells, claims, learning rates, every run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from smt_ray.config.comparison import LEARNING_RATE, ComparisonConfig, TableConfig
from smt_ray.config.run import RunConfig
from smt_ray.evaluation.paired import Correct, accuracies, paired_difference, verdict
from smt_ray.orchestration.grid import Outcome
from smt_ray.orchestration.trainer import METRICS
from smt_ray.reporting.table import mean
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
        chosen: Method -> learning rate.
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
            "chosen": tuning.chosen[method],
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
    correct: dict[tuple[str, str], Correct] = {}
    for name, row, column, runs in cells:
        done = [outcomes[run.name] for run in runs]
        tables[name]["rows"].setdefault(row, {})[column] = _cell(runs, done)
        if not column and all(outcome.metrics.get("tasks") for outcome in done):
            correct[name, row] = _correct(done)
    for name, table in config.tables.items():
        tables[name]["claims"] = _claims(name, table, correct)
    return tables


def _cell(runs: list[RunConfig], outcomes: list[Outcome]) -> dict[str, Any]:
    """What a cell's runs, one a seed, come to."""
    cell: dict[str, Any] = {
        "runs": [run.name for run in runs],
        "learning_rate": runs[0].training.learning_rate,
        "errors": [outcome.error for outcome in outcomes if outcome.error],
    }
    if cell["errors"]:
        return cell
    first = outcomes[0].metrics
    cell["percent_of_base"] = (first.get("trainable") or {}).get("percent_of_base")
    losses = [validation_loss(outcome) for outcome in outcomes]
    if None not in losses:
        cell["validation_loss"] = mean(losses)
    cell["projections"] = (first.get("selection") or {}).get("projections")
    if seconds := [found for outcome in outcomes if (found := _step_seconds(outcome))]:
        cell["step_seconds"] = float(np.median(seconds))
    if first.get("tasks"):
        correct = _correct(outcomes)
        found = accuracies(correct)
        cell["tasks"] = {task: estimate.value for task, estimate in found.tasks.items()}
        cell["task_intervals"] = {task: [e.low, e.high] for task, e in found.tasks.items()}
        cell["average"] = found.average._asdict()
        cell["by_seed"] = [
            float(np.mean([rows[i].mean() for rows in correct.values()]))
            for i in range(len(outcomes))
        ]
    return cell


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


def _claims(
    name: str, table: TableConfig, correct: dict[tuple[str, str], Correct]
) -> list[dict[str, Any]]:
    answered = []
    for claim in table.claims:
        both = [correct.get((name, row)) for row in (claim.better, claim.worse)]
        answer: dict[str, Any] = claim.model_dump()
        if both[0] is None or both[1] is None:
            answer["verdict"] = "not resolved"
        else:
            difference = paired_difference(both[0], both[1])
            answer |= {"verdict": verdict(difference), "difference": difference._asdict()}
        answered.append(answer)
    return answered


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
        "learning_rate": run.training.learning_rate,
        "seed": run.seed,
        "sets": {k: v for k, v in sets.items() if k not in ("method", LEARNING_RATE)},
        "accuracy": mean([(task.get("tuned") or {}).get("accuracy") for task in tasks]),
        "seconds": outcome.metrics.get("seconds"),
        "reused": outcome.reused,
        "error": outcome.error,
        "folder": outcome.folder.uri,
    }
