"""The record of a run: its configuration, environment, status and results."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from smt_ray.artifacts.layout import (
    CURVES_PICTURE,
    ENVIRONMENT,
    RUN_CONFIG,
    RUN_METRICS,
    RUN_TABLE,
)
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.config.data import place_of
from smt_ray.config.load import to_yaml
from smt_ray.data.rows import digest_rows
from smt_ray.documents.run import (
    Dataset,
    Environment,
    RunManifest,
    RunMetrics,
    StageEntry,
    Status,
)
from smt_ray.errors import UserError
from smt_ray.reporting.charts.run import curves_figure
from smt_ray.reporting.text.run import to_markdown
from smt_ray.run.artifacts import StageArtifacts
from smt_ray.run.metrics import collect_metrics
from smt_ray.stages.plan import RunPlan
from smt_ray.tracking.connect import TRACKER

_LM_EVAL = "lm-evaluation-harness"

_PACKAGES = (
    "smt-ray", "torch", "ray", "deepspeed", "transformers", "datasets", "mlflow", "peft",
    "safetensors", "lm-eval",
)  # fmt: skip


def begin(
    folder: RunFolder,
    plan: RunPlan,
    parent_run_id: str | None = None,
    probe: str | None = None,
) -> None:
    """Writes the configuration, environment and status of a run that starts or resumes.

    Args:
        probe: The file of the probe, as the storage names it; None if the run needs none.

    Raises:
        UserError: A run of this name was made with another configuration.
    """
    before = check_same_config(folder, plan)
    environment = _environment()
    folder.storage.write_bytes(folder.path(RUN_CONFIG), to_yaml(plan.config).encode())
    folder.storage.write_json(folder.path(ENVIRONMENT), environment.to_json())
    folder.update(
        semantic=plan.config.semantic_tree(),
        config=plan.config.model_dump(mode="json"),
        status="RUNNING",
        started_ms=before.started_ms or now_ms(),
        ended_ms=None,
        datasets=_datasets(plan),
        stages=_still_valid(before.stages, plan),
        planned={key: stage.name for key, stage in plan.stages.items()},
        probe=probe or before.probe,
        tags=_tags(plan, environment),
        parents={TRACKER: parent_run_id} if parent_run_id else before.parents,
    )


def check_same_config(folder: RunFolder, plan: RunPlan) -> RunManifest:
    """Checks that a run of this name has this configuration; returns its manifest.

    Raises:
        UserError: A run of this name was made with another configuration.
    """
    tree, before = plan.config.semantic_tree(), folder.manifest()
    # A run that failed before its first stage keeps nothing of its configuration.
    if before.stages and before.semantic != tree:
        raise UserError(
            "name",
            f"the run {folder.name} was made with another config",
            got=_first_difference(before.semantic, tree),
            fix="choose another name=..., or go back to that config",
        )
    return before


def finish(folder: RunFolder, plan: RunPlan, seconds: float) -> RunMetrics:
    """Writes metrics.json, its table and the curves of the training."""
    metrics = collect_metrics(folder, plan, seconds)
    _write_metrics(folder, metrics)
    folder.storage.write_bytes(folder.path(RUN_TABLE), to_markdown(metrics).encode())
    if metrics.training is not None:
        _draw_curves(folder, metrics)
    return metrics


def add_tracked_run(folder: RunFolder, metrics: RunMetrics, url: str | None) -> RunMetrics:
    """Adds the run's page to metrics.json; it is known only after the run was sent."""
    if url is None:
        return metrics
    paths = metrics.paths.model_copy(update={"tracked_run": url})
    metrics = metrics.model_copy(update={"paths": paths})
    _write_metrics(folder, metrics)
    return metrics


def end(folder: RunFolder, status: Status, ended_ms: int | None = None) -> None:
    """Writes the status of a run that ended at a time, in milliseconds since the epoch, or now."""
    folder.update(status=status, ended_ms=ended_ms or now_ms())


def user_name() -> str:
    """The name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def now_ms() -> int:
    """The time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _write_metrics(folder: RunFolder, metrics: RunMetrics) -> None:
    folder.storage.write_json(folder.path(RUN_METRICS), metrics.to_json())


def _still_valid(stages: dict[str, StageEntry], plan: RunPlan) -> dict[str, StageEntry]:
    """The finished stages of earlier starts that are still in the plan."""
    return {
        key: entry
        for key, entry in stages.items()
        if (stage := plan.stages.get(key)) and stage.name == entry.stage and stage.is_done()
    }


def _tags(plan: RunPlan, environment: Environment) -> dict[str, str]:
    return {
        "method": plan.config.method,
        "model": plan.model.name,
        "model_identity": plan.identity.get("sha256") or plan.identity.get("commit") or "",
        "commit": environment.commit or "unknown",
        "smt_ray": environment.packages["smt-ray"] or "unknown",
        "source": "smt-ray",
        "user": user_name(),
    }


def _draw_curves(folder: RunFolder, metrics: RunMetrics) -> None:
    records = StageArtifacts(folder.storage, metrics.stages).records()
    with scratch_folder() as scratch:
        curves_figure(records, scratch / CURVES_PICTURE, folder.name)
        folder.storage.put_file(scratch / CURVES_PICTURE, folder.path(CURVES_PICTURE))


def _datasets(plan: RunPlan) -> list[Dataset]:
    split, data, evaluation = plan.split, plan.config.data, plan.config.evaluation
    training = ", ".join(map(place_of, data.train))
    held_out = ", ".join(map(place_of, data.validation)) or training
    own = {task.name: place_of(task.rows) for task in evaluation.own_tasks}
    named = [
        ("training", "training", training, split.training_digest, len(split.training)),
        ("validation", "validation", held_out, split.validation_digest, len(split.validation)),
        *(
            (task, "test", own.get(task, data.dir or "builtin"), test.digest, len(test.rows))
            for task, test in plan.tests.items()
        ),
        *(
            (name, "test", place_of(source), digest_rows(rows), len(rows))
            for source, (name, rows) in zip(
                evaluation.retention, plan.retention.items(), strict=True
            )
        ),
        *_lm_eval_rows(plan),
    ]
    return [
        Dataset(name=name, context=context, source=source, digest=digest, num_rows=number)
        for name, context, source, digest, number in named
        if number
    ]


def _lm_eval_rows(plan: RunPlan) -> list[tuple[str, str, str, str, int]]:
    """The rows of the tasks of lm-evaluation-harness."""
    tasks = plan.harness
    if tasks is None:
        return []
    return [
        (f"lm_eval_{task}", "test", _LM_EVAL, tasks.digests[task], number)
        for task, number in tasks.num_rows.items()
    ]


def _environment() -> Environment:
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        num_cpus=os.cpu_count(),
        packages={package: _version(package) for package in _PACKAGES},
        commit=_commit(),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from; None for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    answer = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or None


def _first_difference(before: Any, now: Any, path: str = "") -> str:
    """``key: old -> new`` of the first semantic key that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return _first_difference(before.get(key), now.get(key), f"{path}.{key}".strip("."))
    return f"{path}: {before!r} -> {now!r}"
