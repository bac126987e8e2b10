"""What a run's folder says: what was asked, where it ran, how it stands and what came out."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.config.load import to_yaml
from smt_ray.data.sources import digest_rows
from smt_ray.errors import UserError
from smt_ray.evaluation.metrics import majority_share
from smt_ray.methods.protocol import Counts
from smt_ray.reporting.charts.run import curves_figure
from smt_ray.reporting.text.run import to_markdown
from smt_ray.run.report import REPORT
from smt_ray.stages.plan import RunPlan
from smt_ray.stages.training import ADAPTER, METRICS
from smt_ray.tracking.records import parse_records
from smt_ray.tracking.uris import how_to_open, resolve_tracking_uri

_PACKAGES = (
    "smt-ray", "torch", "ray", "deepspeed", "transformers", "datasets", "mlflow", "peft",
    "safetensors",
)  # fmt: skip


def begin(folder: RunFolder, plan: RunPlan) -> None:
    """Writes what the run was asked, or finds it there.

    Raises:
        UserError: Another config made a run of this name.
    """
    tree = plan.config.semantic_tree()
    before = folder.manifest()
    # A run that failed before its first stage leaves nothing that the name would stand for.
    if before["stages"] and before["semantic"] != tree:
        raise UserError(
            "name",
            f"the run {folder.name} was made with another config",
            got=_first_difference(before["semantic"], tree),
            fix="give this one another name=..., or go back to that config",
        )
    environment = _environment()
    folder.storage.write_bytes(folder.path("config.yaml"), to_yaml(plan.config).encode())
    folder.storage.write_json(folder.path("environment.json"), environment)
    folder.update(
        semantic=tree,
        config=plan.config.model_dump(mode="json"),
        status="RUNNING",
        started_ms=before.get("started_ms") or _now_ms(),
        ended_ms=None,
        datasets=_datasets(plan),
        stages=_still_there(before["stages"], plan),
        tags={
            "method": plan.config.method,
            "model": plan.model["path"] or f"builtin:{plan.model['builtin']}",
            "model_identity": plan.identity.get("sha256") or plan.identity.get("commit") or "",
            "commit": environment["commit"] or "unknown",
            "smt_ray": environment["packages"]["smt-ray"] or "unknown",
            "mlflow.source.name": "smt-ray",
            "mlflow.user": user_name(),
        },
    )


def _still_there(stages: dict[str, Any], plan: RunPlan) -> dict[str, Any]:
    """The finished stages of an earlier start that are this run's too."""
    return {
        kind: entry
        for kind, entry in stages.items()
        if (stage := plan.stages.get(kind))
        and stage.name == entry["stage"]
        and stage.manifest() is not None
    }


def finish(folder: RunFolder, plan: RunPlan, seconds: float) -> dict[str, Any]:
    """Writes metrics.json, its table and the training's curves; returns what metrics.json holds."""
    metrics = collect_metrics(folder, plan, seconds)
    folder.storage.write_json(folder.path("metrics.json"), metrics)
    folder.storage.write_bytes(folder.path("table.md"), to_markdown(metrics).encode())
    if "training" in metrics:
        _draw_curves(folder, plan)
    return metrics


def add_page(folder: RunFolder, metrics: dict[str, Any], page: str | None) -> dict[str, Any]:
    """Writes metrics.json again with the run's page, which is known only once it is tracked."""
    if page is not None:
        metrics["paths"]["mlflow run"] = page
        folder.storage.write_json(folder.path("metrics.json"), metrics)
    return metrics


def _draw_curves(folder: RunFolder, plan: RunPlan) -> None:
    records = parse_records(folder.storage.read_bytes(plan.trained.path(METRICS)).decode())
    with scratch_folder() as scratch:
        picture = curves_figure(records, scratch / "curves.png", title=folder.name)
        folder.storage.put_file(picture, folder.path("curves.png"))


def end(folder: RunFolder, status: str, ended_ms: int | None = None) -> None:
    """Writes how the run ended, and when; now, unless that is said."""
    folder.update(status=status, ended_ms=ended_ms or _now_ms())


def collect_metrics(folder: RunFolder, plan: RunPlan, seconds: float) -> dict[str, Any]:
    """All that a run's table shows, and what really ran, from its finished stages alone."""
    stages = folder.manifest()["stages"]
    metrics: dict[str, Any] = {
        "name": folder.name,
        "method": plan.config.method,
        "model": {**plan.identity, "name": plan.model["path"] or plan.model["builtin"]},
        "seconds": seconds,
        "stages": {
            kind: {**entry, "directory": plan.storage.uri("stages", entry["stage"])}
            for kind, entry in stages.items()
        },
        "tasks": _tasks(plan),
        "paths": _paths(folder, plan),
    }
    if "selection" in stages:
        metrics |= _selection(plan)
    if "training" in stages:
        metrics |= _training(plan)
    if "trainable" in metrics:
        metrics["model"]["num_parameters"] = metrics["trainable"]["num_base"]
    return metrics


_SHOWN = ("accuracy", "interval", "num_unread", "corrected", "seconds", "tokens_per_second")


def _tasks(plan: RunPlan) -> dict[str, Any]:
    results = {}
    for name, stage in plan.evaluations.items():
        if manifest := stage.manifest():
            results[name] = manifest["summary"]["tasks"]
    if not results:
        return {}
    return {
        task: {
            "num_rows": len(rows),
            "majority": majority_share([row.answer for row in rows]),
            **{
                who: {k: summary[task][k] for k in _SHOWN if k in summary[task]}
                for who, summary in results.items()
            },
        }
        for task, rows in plan.tasks.items()
    }


def _selection(plan: RunPlan) -> dict[str, Any]:
    assert plan.selection is not None
    summary = (plan.selection.manifest() or {})["summary"]
    chosen = {name: count for name, count in summary["counts"].items() if count}
    projections: dict[str, int] = {}
    for name, count in chosen.items():
        kind = name.rpartition(".")[2]
        projections[kind] = projections.get(kind, 0) + count
    num_trainable, num_base = summary["num_trainable"], summary["num_base"]
    return {
        "trainable": Counts(num_trainable, num_base, num_base + num_trainable).summary(),
        "selection": {
            **{k: summary[k] for k in ("num_blocks", "block_size", "margin", "score", "scope")},
            "num_modules": len(chosen),
            "projections": projections,
            "num_layers": len({name.rpartition(".")[0] for name in chosen}),
        },
    }


def _training(plan: RunPlan) -> dict[str, Any]:
    summary = (plan.trained.manifest() or {})["summary"]
    # A finished training of before says nothing of its counts: smt's selection does.
    known = {key: summary[key] for key in ("trainable", "lora") if key in summary}
    return {
        **known,
        "training": {**summary["metrics"], "num_steps": summary["num_steps"]},
        "ran": {
            "batching": summary["batching"],
            "kernel": summary["kernel"],
            "optimizer": summary["optimizer"],
            "devices": f"{summary['num_ranks']} x {summary['device']}",
            "zero_stage": summary["zero_stage"],
            "dtype": summary["dtype"],
        },
    }


def _paths(folder: RunFolder, plan: RunPlan) -> dict[str, str]:
    paths = {"run": folder.uri, "report": folder.storage.uri(folder.path(REPORT))}
    if plan.trained.manifest():
        paths["adapter"] = plan.storage.uri(plan.trained.path(ADAPTER))
        if plan.config.trained_warmup:  # it does not fit the base model
            paths["adapter's base"] = plan.starting_model["path"]
    if plan.config.tracking.enabled:
        uri = resolve_tracking_uri(plan.config.tracking.uri, plan.storage.root)
        paths["mlflow"] = how_to_open(uri)
    return paths


def _datasets(plan: RunPlan) -> list[dict[str, Any]]:
    sources = ", ".join(str(source) for source in plan.config.data.model_dump()["train"])
    named = [("training", sources, plan.training), ("validation", sources, plan.validation)]
    named += [(task, plan.config.data.dir or "builtin", rows) for task, rows in plan.tasks.items()]
    return [
        {
            "name": name,
            "source": source,
            "digest": digest_rows(rows),
            "num_rows": len(rows),
            "context": name if name in ("training", "validation") else "test",
        }
        for name, source, rows in named
        if rows
    ]


def _environment() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "packages": versions,
        "commit": _commit(),
    }


def user_name() -> str:
    """Whose process this is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, or None for an installed one."""
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
