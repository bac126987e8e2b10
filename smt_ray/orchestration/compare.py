"""The flow of a comparison: learning rates, cells, tables; every run of it one of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from smt_ray.config.comparison import ComparisonConfig, TableConfig
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.evaluation.paired import Correct, average_accuracy, paired_difference, verdict
from smt_ray.orchestration.comparison_record import write_comparison
from smt_ray.orchestration.grid import Outcome, check_grid, run_grid
from smt_ray.orchestration.parent_run import ParentRun
from smt_ray.orchestration.session import ray_session
from smt_ray.orchestration.trainer import METRICS
from smt_ray.tracking.records import parse_records
from smt_ray.training.loop import VALIDATION_LOSS

_RAMP = 0.1  # of a run's first steps, left out of its speed


def compare(config: ComparisonConfig) -> dict[str, Any]:
    """Carries out a comparison; what is finished is skipped, what fails is noted.

    Args:
        config: The comparison.

    Returns:
        What ``comparisons/<name>/comparison.json`` holds.

    Raises:
        UserError: A cell cannot work; nothing has been started then.
    """
    tuning = config.tuning_runs()
    guessed = {method: next(iter(rates)) for method, rates in tuning.items()}
    runs = [run for rates in tuning.values() for run in rates.values()]
    check_grid([*runs, *_all_runs(config.cell_runs(guessed))])
    with ray_session():
        first = runs[0] if runs else config.make_run({}, config.seeds[0])
        parent = ParentRun("comparison", config.name, config.model_dump(mode="json"), first)
        try:
            # Test rows have no say in what is chosen: those runs are not evaluated.
            rates = run_grid(runs, parent_run_id=parent.run_id, until="training")
            chosen = {method: _best(method, tried, rates) for method, tried in tuning.items()}
            cells = list(config.cell_runs(chosen))
            outcomes = run_grid(_all_runs(cells), parent_run_id=parent.run_id)
            results = _collect(config, cells, outcomes)
            results["learning_rates"] = _tried(tuning, rates, chosen)
            files = write_comparison(parent.storage, parent.folder, results)
        except BaseException as error:
            parent.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        parent.end("FINISHED", _final_metrics(results), files)
    return results


def _all_runs(cells: Iterable[tuple[str, str, str, list[RunConfig]]]) -> list[RunConfig]:
    return [run for *_, runs in cells for run in runs]


def _best(method: str, tried: dict[float, RunConfig], outcomes: dict[str, Outcome]) -> float:
    """The learning rate of the lowest validation loss."""
    losses = {
        rate: loss
        for rate, run in tried.items()
        if (loss := _validation_loss(outcomes[run.name])) is not None
    }
    if not losses:
        raise UserError(
            f"learning_rates.{method}",
            "at least one must train to a finite validation loss",
            got=list(tried),
            fix="set run.data.validation_rows, and look at the runs' errors above",
        )
    return min(losses, key=losses.__getitem__)


def _validation_loss(outcome: Outcome) -> float | None:
    loss = outcome.metrics.get("training", {}).get(VALIDATION_LOSS)
    return loss if loss is not None and np.isfinite(loss) else None


def _tried(
    tuning: dict[str, dict[float, RunConfig]],
    outcomes: dict[str, Outcome],
    chosen: dict[str, float],
) -> dict[str, Any]:
    return {
        method: {
            "chosen": chosen[method],
            "validation_loss": {
                f"{rate:g}": _validation_loss(outcomes[run.name]) for rate, run in tried.items()
            },
        }
        for method, tried in tuning.items()
    }


def _collect(
    config: ComparisonConfig,
    cells: list[tuple[str, str, str, list[RunConfig]]],
    outcomes: dict[str, Outcome],
) -> dict[str, Any]:
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
    return {
        "name": config.name,
        "seeds": config.seeds,
        "tables": tables,
        "runs": {
            name: {
                "seconds": outcome.metrics.get("seconds"),
                "error": outcome.error,
                "folder": outcome.folder.uri,
            }
            for name, outcome in outcomes.items()
        },
    }


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
    cell["projections"] = (first.get("selection") or {}).get("projections")
    if seconds := [found for outcome in outcomes if (found := _step_seconds(outcome))]:
        cell["step_seconds"] = float(np.median(seconds))
    if first.get("tasks"):
        correct = _correct(outcomes)
        cell["tasks"] = {task: float(rows.mean()) for task, rows in correct.items()}
        cell["average"] = average_accuracy(correct)._asdict()
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


def _final_metrics(results: dict[str, Any]) -> dict[str, float]:
    return {
        f"{name}/{row}" + (f"/{column}" if column else ""): cell["average"]["value"]
        for name, table in results.get("tables", {}).items()
        for row, columns in table["rows"].items()
        for column, cell in columns.items()
        if "average" in cell
    }
