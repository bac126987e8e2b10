"""A search of three learning rates, and what its trials leave in a storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smt_ray.artifacts.layout import search_folder
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.documents.run import Status
from smt_ray.documents.search import Point, TrialEntry, TrialStatus
from smt_ray.run import record
from smt_ray.search.trial_record import TrialRecord
from smt_ray.stages.plan import make_plan
from tests.finished_runs import Content, finish_run, write_records

KEY = "training.learning_rate"
RATES = (1e-3, 2e-3, 3e-3)
POINTS: list[Point] = [{KEY: rate} for rate in RATES]
FOLDER = search_folder("mine")


def make_search(storage: Path, **changes: Any) -> SearchConfig:
    """A search on the built-in model; ``run`` changes sections of the base run."""
    run: dict[str, Any] = {
        "storage": str(storage),
        "model": {"builtin": "tiny"},
        "data": {"train": ["builtin:tiny_arithmetic"], "max_rows": 20, "validation_rows": 4},
        "training": {"max_steps": 8, "validate_every_steps": 2},
        "resources": {"use_gpu": False},
    } | changes.pop("run", {})
    space = {KEY: {"grid_search": list(RATES)}}
    return validate_section(SearchConfig, {"name": "mine", "run": run, "space": space, **changes})


def make_record(storage: Path, *statuses: TrialStatus) -> TrialRecord:
    """The record of trials of the first points, with these statuses."""
    found = TrialRecord(str(storage), FOLDER)
    for number, status in enumerate(statuses):
        found.put(TrialEntry(id=f"t{number}", point=POINTS[number], status=status))
    return found


def leave_trained(
    config: SearchConfig, point: Point, losses: Mapping[int, float], status: Status = "FINISHED"
) -> str:
    """Leaves the run of a trained trial; returns its name.

    Args:
        config: The search.
        point: The point of the trial.
        losses: Step -> validation loss.
        status: The status of the run.
    """
    run = config.make_run(point)
    finish_run(run, "training", Content(losses=losses, step_seconds=()))
    record.end(RunFolder(Storage(run.storage), run.name), status)
    return run.name


def leave_interrupted(config: SearchConfig, point: Point, losses: Mapping[int, float]) -> str:
    """Leaves the run of a trial whose process ended during training; returns its name."""
    run = config.make_run(point)
    plan = make_plan(run)
    record.begin(RunFolder(plan.storage, run.name), plan)
    write_records(plan.training, losses)
    return run.name
