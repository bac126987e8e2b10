"""A search of three learning rates, and what is left in a storage of trials that ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.search.trial import METRIC
from smt_ray.stages.plan import make_plan
from smt_ray.stages.training import METRICS
from smt_ray.tracking.records import make_record
from smt_ray.training.metrics_log import write_records

KEY = "training.learning_rate"
RATES = (1e-3, 2e-3, 3e-3)


def make_search(storage: Path, **changes: Any) -> SearchConfig:
    """On the built-in model; a run's sections are changed by ``run``."""
    run: dict[str, Any] = {
        "storage": str(storage),
        "model": {"builtin": "tiny"},
        "data": {"train": ["builtin:tiny_arithmetic"], "max_rows": 20, "validation_rows": 4},
        "training": {"max_steps": 8, "validate_every_steps": 2},
        "resources": {"use_gpu": False},
    } | changes.pop("run", {})
    space = {KEY: {"grid_search": list(RATES)}}
    return validate_section(SearchConfig, {"name": "mine", "run": run, "space": space, **changes})


def leave_run(
    config: SearchConfig, point: dict[str, Any], losses: dict[int, float], *,
    trained: bool = True, status: str = "FINISHED",
) -> str:  # fmt: skip
    """The run of a point as a trial leaves it; its name.

    Args:
        config: The search.
        point: The trial's.
        losses: Of the validation, by step.
        trained: Whether the training stage is done.
        status: The run's.
    """
    run = config.make_run(point)
    stage = make_plan(run).trained
    records = [make_record(step, {METRIC: loss}) for step, loss in losses.items()]
    write_records(stage.storage, stage.path(METRICS), records)
    if trained:
        stage.publish([METRICS], {}, 1.0)
    RunFolder(stage.storage, run.name).update(status=status)
    return run.name
