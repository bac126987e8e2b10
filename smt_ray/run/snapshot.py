"""The data of a run for trackers, read from its folder by the run and by ``smt-ray log``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from smt_ray.artifacts.layout import (
    ADAPTER,
    CURVES_PICTURE,
    ENVIRONMENT,
    REPORT,
    RUN_CONFIG,
    RUN_METRICS,
    RUN_TABLE,
    SELECTION_PICTURE,
    stage_folder,
)
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.documents.run import VALIDATION_LOSS, WHO, RunManifest, RunMetrics
from smt_ray.reporting.text.run import to_markdown
from smt_ray.run.artifacts import StageArtifacts
from smt_ray.tracking.connect import TRACKER
from smt_ray.tracking.params import as_description, config_params
from smt_ray.tracking.protocol import RunStart
from smt_ray.tracking.replay import RunSnapshot


def read_start(run: RunFolder) -> RunStart:
    """The data that starts or continues the tracking of a run."""
    return _start(run, run.manifest())


@contextmanager
def read_snapshot(run: RunFolder, model: Path | None = None) -> Iterator[RunSnapshot]:
    """All data of a run; its local files exist while the context is open.

    Args:
        model: The local folder of the merged model, if it is sent, too.
    """
    with ExitStack() as copies:
        found = _read_snapshot(run, lambda path: copies.enter_context(run.storage.local(path)))
        yield replace(found, model=str(model)) if model else found


def _start(run: RunFolder, manifest: RunManifest) -> RunStart:
    return RunStart(
        name=run.name,
        key=f"{run.uri}@{manifest.started_ms}",
        started_ms=manifest.started_ms,
        run_id=manifest.tracked.get(TRACKER),
        parent_run_id=manifest.parents.get(TRACKER),
        params=config_params(manifest.config),
        tags=manifest.tags,
    )


def _read_snapshot(run: RunFolder, local: Callable[[str], Path]) -> RunSnapshot:
    manifest, metrics = run.manifest(), run.metrics()
    start = vars(_start(run, manifest))
    if metrics is not None:
        description = as_description(to_markdown(metrics))
        start = {**start, "tags": {**manifest.tags, "description": description}}
    found = StageArtifacts(run.storage, manifest.stages)
    return RunSnapshot(
        **start,
        status=manifest.status or "RUNNING",
        ended_ms=manifest.ended_ms,
        records=[*found.records("warmup"), *found.records("training")],
        final_metrics=final_metrics(metrics) if metrics else {},
        datasets=manifest.datasets,
        artifacts=[
            (str(local(path)), folder)
            for path, folder in _artifacts(run, manifest)
            if run.storage.exists(path)
        ],
        tables=_tables(metrics) if metrics else {},
    )


def _artifacts(run: RunFolder, manifest: RunManifest) -> list[tuple[str, str | None]]:
    """(path in the storage, folder in the tracker) of every file to send.

    An adapter that is a whole model is not sent.
    """
    own = (RUN_CONFIG, ENVIRONMENT, RUN_METRICS, RUN_TABLE, CURVES_PICTURE, REPORT)
    found: list[tuple[str, str | None]] = [(run.path(file), None) for file in own]
    if selection := manifest.stages.get("selection"):
        found.append((f"{stage_folder(selection.stage)}/{SELECTION_PICTURE}", "selection"))
    if training := manifest.stages.get("training"):
        stage = Stage.at(run.storage, training.stage)
        if stage.is_done() and not stage.read().summary.is_whole_model:
            found.append((stage.path(ADAPTER), "adapter"))
    return found


def final_metrics(metrics: RunMetrics) -> dict[str, float]:
    """The metrics of a finished run by the tracker's names: accuracies, seconds, counts."""
    found: dict[str, float | None] = {}
    for task, results in metrics.tasks.items():
        found |= {f"eval/{task}/{who}": results.accuracy(who) for who in WHO}
        found[f"eval/{task}/majority"] = results.majority
    if len(metrics.tasks) > 1:
        found |= {f"eval/average/{who}": metrics.average(who) for who in WHO}
    for name, kept in metrics.retention.items():
        found |= {f"eval/retention/{name}/{who}": loss.loss for who, loss in kept if loss}
    found |= _lm_eval(metrics)
    if metrics.training and metrics.training.loss_before is not None:
        found[f"{VALIDATION_LOSS}_before"] = metrics.training.loss_before
    found |= {f"seconds/{key}": entry.seconds for key, entry in metrics.stages.items()}
    if metrics.rows:
        found["rows/training"] = metrics.rows.training.num_rows
        found["rows/dropped_share"] = metrics.rows.training.dropped_share
        found["rows/bad"] = metrics.rows.training.bad.number + metrics.rows.unread.number
        found["rows/truncated_share"] = metrics.rows.training.truncated_share
    if trainable := metrics.trainable:
        found["trainable/parameters"] = trainable.num_trainable
        found["trainable/percent_of_base"] = trainable.percent_of_base
        found["trainable/percent_of_total"] = trainable.percent_of_total
    for key, value in metrics.method_settings.items():
        if isinstance(value, int | float):
            found[f"{metrics.method}/{key}"] = value
    if selection := metrics.selection:
        found["selection/num_blocks"] = selection.num_blocks
        found["selection/block_size"] = selection.block_size
        found["selection/margin"] = selection.margin
    return {name: value for name, value in found.items() if value is not None}


def _lm_eval(metrics: RunMetrics) -> dict[str, float | None]:
    """The metrics of lm-evaluation-harness, each with its standard error."""
    found: dict[str, float | None] = {}
    for task, results in metrics.lm_eval.items():
        for who, result in results:
            for metric in result.metrics if result else ():
                place = f"eval/lm_eval/{task}/{metric.key.replace(', ', '/')}/{who}"
                found |= {place: metric.value, f"{place}_stderr": metric.stderr}
    return found


def _tables(metrics: RunMetrics) -> dict[str, dict[str, list[Any]]]:
    if not metrics.tasks:
        return {}
    results = list(metrics.tasks.values())
    columns: dict[str, list[Any]] = {"task": list(metrics.tasks)}
    for who in WHO:
        if any(of_task.result(who) for of_task in results):
            columns[who] = [of_task.accuracy(who) for of_task in results]
    columns["majority"] = [of_task.majority for of_task in results]
    return {"tasks.json": columns}
