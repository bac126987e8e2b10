"""What tracking shows of a run, read from its folder: at its end, and at ``smt-ray log``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.reporting.text.run import mean, to_markdown
from smt_ray.run.report import REPORT
from smt_ray.stages.training import ADAPTER, METRICS
from smt_ray.tracking.params import as_description, config_params
from smt_ray.tracking.protocol import Dataset
from smt_ray.tracking.records import parse_records
from smt_ray.tracking.replay import RunSnapshot

_WHO = ("base", "base_likelihood", "tuned", "tuned_likelihood")


def start_arguments(run: RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """What starts or continues a run's tracking.

    Args:
        run: Its folder.
        config: Its complete configuration as plain values.
    """
    manifest = run.manifest()
    return {
        "name": run.name,
        "key": f"{run.uri}@{manifest['started_ms']}",
        "run_id": manifest.get("mlflow_run_id"),
        "parent_run_id": manifest.get("mlflow_parent_run_id"),
        "params": config_params(config),
        "tags": manifest["tags"],
        "started_ms": manifest["started_ms"],
    }


@contextmanager
def read_snapshot(run: RunFolder) -> Iterator[RunSnapshot]:
    """Everything that is on disk for a run; its files can be read during the block alone."""
    with ExitStack() as copies:
        yield _read_snapshot(run, lambda path: copies.enter_context(run.storage.local(path)))


def _read_snapshot(run: RunFolder, local: Callable[[str], Path]) -> RunSnapshot:
    manifest, storage = run.manifest(), run.storage
    start = start_arguments(run, manifest["config"])
    stages = {kind: entry["stage"] for kind, entry in manifest["stages"].items()}
    metrics = _json(run, "metrics.json")
    if metrics:
        start["tags"] |= {"mlflow.note.content": as_description(to_markdown(metrics))}
    return RunSnapshot(
        **start,
        status=manifest["status"],
        ended_ms=manifest.get("ended_ms"),
        records=_records(run, stages),
        final_metrics=final_metrics(metrics),
        datasets=[Dataset(**dataset) for dataset in manifest["datasets"]],
        artifacts=[
            (str(local(path)), folder)
            for path, folder in _artifacts(run, stages)
            if storage.exists(path)
        ],
        tables=_tables(metrics),
    )


def _json(run: RunFolder, file: str) -> dict[str, Any]:
    if not run.storage.exists(run.path(file)):
        return {}
    value: dict[str, Any] = run.storage.read_json(run.path(file))
    return value


def _records(run: RunFolder, stages: dict[str, str]) -> list[Any]:
    found: list[Any] = []
    for kind in ("warmup", "training"):
        path = f"stages/{stages.get(kind)}/{METRICS}"
        if kind in stages and run.storage.exists(path):
            found += parse_records(run.storage.read_bytes(path).decode())
    return found


def _artifacts(run: RunFolder, stages: dict[str, str]) -> list[tuple[str, str | None]]:
    """(path in the storage, folder in MLflow) of what a reader of the run wants to see.

    Full fine-tuning's "adapter" is a whole model: it stays in the storage.
    """
    found: list[tuple[str, str | None]] = [
        (run.path(file), None)
        for file in (
            "config.yaml", "environment.json", "metrics.json", "table.md", "curves.png", REPORT,
        )
    ]  # fmt: skip
    if "selection" in stages:
        found.append((f"stages/{stages['selection']}/selection.png", "selection"))
    if "training" in stages and run.manifest()["tags"]["method"] != "full":
        found.append((f"stages/{stages['training']}/{ADAPTER}", "adapter"))
    return found


def final_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """What a run came to, by MLflow's names: accuracies, seconds, what was trained.

    Args:
        metrics: What its ``metrics.json`` holds.
    """
    found: dict[str, float] = {}
    tasks = metrics.get("tasks", {})
    for task, results in tasks.items():
        for who in _WHO:
            if results.get(who):
                found[f"eval/{task}/{who}"] = results[who]["accuracy"]
        found[f"eval/{task}/majority"] = results["majority"]
    for who in _WHO if len(tasks) > 1 else ():
        accuracies = [(results.get(who) or {}).get("accuracy") for results in tasks.values()]
        if (average := mean(accuracies)) is not None:
            found[f"eval/average/{who}"] = average
    for stage, entry in metrics.get("stages", {}).items():
        found[f"seconds/{stage}"] = entry["seconds"]
    if trainable := metrics.get("trainable"):
        found["trainable/parameters"] = trainable["num_trainable"]
        found["trainable/percent_of_base"] = trainable["percent_of_base"]
        found["trainable/percent_of_total"] = trainable["percent_of_total"]
    if lora := metrics.get("lora"):
        found["lora/rank"] = lora["rank"]
    for key in ("num_blocks", "block_size", "margin"):
        value = (metrics.get("selection") or {}).get(key)
        if value is not None:
            found[f"selection/{key}"] = value
    return found


def _tables(metrics: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    tasks = metrics.get("tasks", {})
    if not tasks:
        return {}
    columns: dict[str, list[Any]] = {"task": list(tasks)}
    for who in _WHO:
        if any(results.get(who) for results in tasks.values()):
            columns[who] = [(results.get(who) or {}).get("accuracy") for results in tasks.values()]
    columns["majority"] = [results["majority"] for results in tasks.values()]
    return {"tasks.json": columns}
