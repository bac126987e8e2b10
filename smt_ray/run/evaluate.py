"""``smt-ray evaluate``: evaluates a run's tuned model, or any model, on any tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smt_ray.artifacts.layout import EVALUATIONS_FOLDER
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import EVALUATION, Stage, fingerprint
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use
from smt_ray.cluster.board import make_board
from smt_ray.cluster.nodes import ray_for
from smt_ray.cluster.shared_places import check_shared
from smt_ray.config.load import apply_overrides, validate_config
from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.config.stage_keys import stage_keys
from smt_ray.documents.kept.use import EvaluationEntry
from smt_ray.documents.stages import PROTOCOLS, EvaluationReport, EvaluationSummary, Protocol
from smt_ray.errors import UserError
from smt_ray.evaluation.harness.tasks import HarnessTasks, read_harness
from smt_ray.evaluation.test_rows import TestRows, check_candidates, read_tests
from smt_ray.models.inspect import model_identity
from smt_ray.models.load import load_skeleton
from smt_ray.models.named import model_keys
from smt_ray.models.place import located
from smt_ray.probe.probe import kept_probe
from smt_ray.reporting.text.progress import say
from smt_ray.run.export.merge import read_prompt, starting_model, trained_adapter
from smt_ray.stages.evaluation import evaluation_pool, publish_predictions
from smt_ray.stages.plan import evaluation_inputs

_SECTIONS = ("evaluation", "data", "batching", "resources")
"""The sections of a config that can change an evaluation; the model is the run's own."""


def evaluate_run(
    storage_root: str,
    name: str,
    tasks: Sequence[str],
    data: str | None,
    overrides: Sequence[str],
    protocol: str = "generate",
) -> EvaluationReport:
    """Evaluates a run's tuned model on all test rows. Other settings are the run's own.

    Args:
        tasks: Names of tasks or suites, also of the run's own tasks.
        data: The folder with ``dataset/<task>/test.json``, or ``hub``; None for the run's own.
        overrides: ``key=value`` items for the run's config.
        protocol: ``generate`` lets the model write its answer; ``likelihood`` takes the candidate
            that the model finds most likely.

    Raises:
        UserError: The run, a task or its rows cannot be found, or a task has no candidates.
    """
    run = RunFolder.open(Storage(storage_root), name)
    manifest = run.manifest()
    values = {**manifest.config, "storage": storage_root}
    config = _with_tasks(values, tasks, data, overrides, _SECTIONS)
    adapter = run.storage.uri(trained_adapter(run))
    tuned = manifest.stages["training"].stage
    return _evaluate(config, starting_model(run), adapter, tuned, protocol, tuned)


def evaluate_model(
    storage_root: str,
    model: str,
    adapter: str | None,
    tasks: Sequence[str],
    data: str | None,
    overrides: Sequence[str],
    protocol: str = "generate",
) -> EvaluationReport:
    """Evaluates a model folder or hub name, with or without an adapter; see :func:`evaluate_run`.

    Raises:
        UserError: The model, the adapter, a task or its rows cannot be found, or the adapter does
            not fit the model.
    """
    prompt = (adapter and read_prompt(adapter)) or read_prompt(model)
    values: dict[str, Any] = {
        "name": "evaluate",
        "storage": storage_root,
        "model": model_keys(model),
        "data": {"train": ["none"], **(prompt.to_json() if prompt else {})},
    }
    config = _with_tasks(values, tasks, data, overrides, (*_SECTIONS, "model"))
    digest = None if adapter is None else _digest(Path(adapter))
    place = None if adapter is None else str(Path(adapter).absolute())
    return _evaluate(config, located(config.model), place, digest, protocol)


def _with_tasks(
    values: dict[str, Any],
    tasks: Sequence[str],
    data: str | None,
    overrides: Sequence[str],
    sections: Sequence[str],
) -> RunConfig:
    """The config of an evaluation; ``sections`` are those that overrides may change."""
    for override in overrides:
        if override.partition("=")[0].partition(".")[0] not in sections:
            raise UserError(
                "--set",
                f"must set a key of {', '.join(sections)}: others change nothing here",
                got=override,
                fix="leave it out",
            )
    before = values.get("evaluation", {})
    own = {task["name"]: task for task in before.get("tasks", ()) if isinstance(task, dict)}
    values["evaluation"] = {
        **before,
        "tasks": [own.get(name, name) for name in tasks],
        "lm_eval": [], "base_likelihood": False, "tuned_likelihood": False, "max_rows": None,
    }  # fmt: skip
    if data is not None:
        values["data"] = {**values["data"], "dir": data}
    return validate_config(apply_overrides(values, overrides))


def _evaluate(
    config: RunConfig,
    model: ModelConfig,
    adapter: str | None,
    tuned: str | None,
    protocol: str,
    training: str | None = None,
) -> EvaluationReport:
    chosen = _check_protocol(protocol, config)
    storage, tests = Storage(config.storage), read_tests(config)
    storage.check_writable()
    identity = model_identity(config.model)
    inputs = evaluation_inputs(identity, tests, stage_keys(config), chosen)
    if harness := read_harness(config):
        inputs["lm_eval"] = harness.digests
    stage = Stage(storage, EVALUATION, {**inputs, "tuned": tuned})
    with in_use(storage, "evaluate"):
        entry = EvaluationEntry(stage=stage.name, training=training)
        storage.write_json(f"{EVALUATIONS_FOLDER}/{stage.name}.json", entry.to_json())
        if stage.verify():
            say(f"evaluation: reused ({stage.name})")
        else:
            _predict(config, stage, tests, harness, model, adapter)
    summary = stage.read().summary
    return EvaluationReport(
        prompt=summary.prompt,
        tasks=summary.tasks,
        lm_eval=summary.lm_eval,
        predictions=stage.uri,
    )


def _predict(
    config: RunConfig,
    stage: Stage[EvaluationSummary],
    tests: Mapping[str, TestRows],
    harness: HarnessTasks | None,
    model: ModelConfig,
    adapter: str | None,
) -> None:
    began = time.monotonic()
    with ray_for([config], warms_up=False):
        check_shared(config, tracks=False)
        probe = kept_probe(load_skeleton(config.model), stage.storage)
        with evaluation_pool(config, make_board()) as pool:
            found = pool.evaluate(
                "evaluate",
                tests,
                retention={},
                protocol=stage.inputs["protocol"],
                model=model,
                probe=probe,
                adapter=adapter,
            )
            of_harness = None
            if harness:
                of_harness = pool.evaluate_harness(
                    "evaluate", harness, model=model, probe=probe, adapter=adapter
                )
        publish_predictions(stage, found, of_harness, time.monotonic() - began)


def _check_protocol(protocol: str, config: RunConfig) -> Protocol:
    chosen = next((known for known in PROTOCOLS if known == protocol), None)
    if chosen is None:
        raise UserError("--protocol", f"must be one of {', '.join(PROTOCOLS)}", got=protocol)
    if chosen == "likelihood":
        check_candidates(config, "--protocol", got=protocol, fix="leave it out")
    return chosen


def _digest(adapter: Path) -> str:
    if not adapter.is_dir():
        raise UserError("--adapter", "must be an adapter's folder", got=str(adapter))
    folder = Storage(str(adapter))
    return fingerprint({file: folder.digest(file).to_json() for file in folder.list_files("")})
