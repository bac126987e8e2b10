"""``smt-ray evaluate``: a run's tuned model, or any model, on any tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage, fingerprint
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.board import make_board
from smt_ray.cluster.nodes import ray_for
from smt_ray.cluster.shared_places import check_shared
from smt_ray.config.load import apply_overrides, validate_config
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import find_tasks
from smt_ray.models.inspect import model_identity
from smt_ray.reporting.text.progress import say
from smt_ray.run.merge import starting_model, trained_adapter
from smt_ray.stages.evaluation import evaluation_pool, publish_predictions
from smt_ray.stages.plan import check_candidates, evaluation_stage, read_tasks

PROTOCOLS = ("generate", "likelihood")


def evaluate_run(
    storage_root: str, name: str, tasks: Sequence[str], data: str | None, overrides: Sequence[str],
    protocol: str = "generate",
) -> dict[str, Any]:  # fmt: skip
    """Evaluates a run's tuned model on all rows, otherwise under the run's own settings.

    Args:
        storage_root: The storage that holds the run.
        name: The run.
        tasks: Task or suite names.
        data: Folder with ``dataset/<task>/test.json``, or ``hub``; by default the run's.
        overrides: ``key=value`` items on the run's config.
        protocol: ``generate`` lets the model write its answer, ``likelihood`` takes the candidate
            that it holds likeliest.

    Raises:
        UserError: The run, a task or its rows cannot be found, or a task has no candidates.
    """
    run = RunFolder.open(Storage(storage_root), name)
    values = {**run.manifest()["config"], "storage": storage_root}
    config = _with_tasks(values, tasks, data, overrides)
    adapter = trained_adapter(run)
    stage_name = run.manifest()["stages"]["training"]["stage"]
    model = starting_model(run, config.model.spec())
    return _evaluate(config, model, run.storage.uri(adapter), stage_name, protocol)


def evaluate_model(
    storage_root: str,
    model: str,
    adapter: str | None,
    tasks: Sequence[str],
    data: str | None,
    overrides: Sequence[str],
    protocol: str = "generate",
) -> dict[str, Any]:
    """Evaluates a model folder or hub name, with or without an adapter; see :func:`evaluate_run`.

    Raises:
        UserError: The model, the adapter, a task or its rows cannot be found, or they do not fit.
    """
    values: dict[str, Any] = {
        "name": "evaluate",
        "storage": storage_root,
        "model": {"path": model},
        "data": {"train": ["none"]},
    }
    config = _with_tasks(values, tasks, data, overrides)
    digest = None if adapter is None else _digest(Path(adapter))
    adapter = adapter and str(Path(adapter).absolute())
    return _evaluate(config, config.model.spec(), adapter, digest, protocol)


def _with_tasks(
    values: dict[str, Any], tasks: Sequence[str], data: str | None, overrides: Sequence[str]
) -> RunConfig:
    values["evaluation"] = {
        **values.get("evaluation", {}),
        "tasks": list(tasks), "base_likelihood": False, "tuned_likelihood": False, "max_rows": None,
    }  # fmt: skip
    if data is not None:
        values["data"] = {**values["data"], "dir": data}
    return validate_config(apply_overrides(values, overrides))


def _evaluate(
    config: RunConfig, model: dict[str, Any], adapter: str | None, tuned: str | None,
    protocol: str,
) -> dict[str, Any]:  # fmt: skip
    _check_protocol(protocol, config.evaluation.tasks)
    storage, tasks = Storage(config.storage), read_tasks(config)
    storage.check_writable()
    stage = evaluation_stage(
        storage,
        identity=model_identity(config.model.spec()),
        tuned=tuned,
        tasks=tasks,
        protocol=protocol,
        prompt=config.data.prompt,
        decoding=config.evaluation.decoding(),
    )
    manifest = stage.manifest()
    if manifest is not None:
        say(f"evaluated before, reused ({stage.name})")
    else:
        manifest = _predict(config, stage, tasks, model, adapter)
    results: dict[str, Any] = manifest["summary"]["tasks"]
    return {"tasks": results, "predictions": stage.uri}


def _predict(
    config: RunConfig, stage: Stage, tasks: dict[str, Any], model: dict[str, Any],
    adapter: str | None,
) -> dict[str, Any]:  # fmt: skip
    began, protocol = time.monotonic(), stage.inputs["protocol"]
    with ray_for([config], warms_up=False):
        check_shared(config, tracks=False)
        with evaluation_pool(config, make_board()) as pool:
            predictions = pool.evaluate(
                "evaluate", tasks, protocol=protocol, model=model, adapter=adapter
            )
        return publish_predictions(stage, protocol, predictions, time.monotonic() - began)


def _check_protocol(protocol: str, tasks: Sequence[str]) -> None:
    if protocol not in PROTOCOLS:
        raise UserError("--protocol", f"must be one of {', '.join(PROTOCOLS)}", got=protocol)
    if protocol == "likelihood":
        for task in find_tasks(tasks):
            check_candidates(task, "--protocol", got=protocol, fix="leave it out")


def _digest(adapter: Path) -> str:
    if not adapter.is_dir():
        raise UserError("--adapter", "must be an adapter's folder", got=str(adapter))
    folder = Storage(str(adapter))
    return fingerprint({file: folder.digest(file) for file in folder.list_files("")})
