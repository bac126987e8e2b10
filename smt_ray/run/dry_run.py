"""``smt-ray run --dry-run``: every check of a run and its memory plan; nothing is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.session import ray_session
from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import MemoryReport
from smt_ray.documents.rows import TokensSummary
from smt_ray.documents.stages import UNTIL, Until
from smt_ray.errors import UserError
from smt_ray.planning.report import plan_memory
from smt_ray.run import record
from smt_ray.run.flow import Flow
from smt_ray.stages.tokens import tokenise
from smt_ray.stages.warmup import process_resources


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run that was not started.

    Attributes:
        key: Its name in the documents of runs.
        name: The name of its folder.
        work: What the run would do: ``reuse``, ``compute`` or ``skip``.
    """

    key: str
    name: str
    work: str


@dataclass(frozen=True)
class CheckedRun:
    """A run that passed all its checks, and what it would do.

    Attributes:
        rows: What became of the rows when they were tokenised.
        memory: The memory plan; None if the training is finished.
        unchecked: The checks of a run that were left out, in words.
    """

    name: str
    storage: str
    stages: list[PlannedStage]
    rows: TokensSummary
    memory: MemoryReport | None
    unchecked: list[str]


def dry_run(config: RunConfig, until: Until = "evaluation") -> CheckedRun:
    """Makes every check that a run makes before it computes anything.

    Raises:
        UserError: What the run would raise.
    """
    flow = Flow(config)
    flow.check_until(until)
    unchecked = list(_check_storage(flow.storage))
    flow.check()
    record.check_same_config(flow.folder, flow.plan)
    tokens = flow.plan.tokens
    if tokens.is_done():
        rows = tokens.read().summary
    else:
        with scratch_folder() as scratch:
            rows = tokenise(flow.plan, scratch)[1]
    unchecked += _check_cluster(flow, until)
    return CheckedRun(
        name=config.name,
        storage=flow.storage.root,
        stages=_stages(flow, until),
        rows=rows,
        memory=None if flow.plan.training.is_done() else plan_memory(config),
        unchecked=unchecked,
    )


def _check_storage(storage: Storage) -> list[str]:
    """Checks without a write that the storage can be written; returns what was not checked."""
    if not storage.is_local:
        storage.exists()
        return ["whether the storage can be written"]
    root = Path(storage.root)
    there = next(place for place in (root, *root.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            "storage", "must be writable", got=storage.root,
            fix="choose another storage=..., or change its permissions",
        )  # fmt: skip
    return []


def _check_cluster(flow: Flow, until: Until) -> list[str]:
    """Checks that the cluster holds the run's processes; returns what was not checked."""
    if not flow.runs_that_need_ray(until):
        return []
    if flow.config.resources.autoscale_timeout_s:
        return ["whether the cluster holds the workers, as that starts nodes"]
    with ray_session():
        warmup = flow.plan.warmup
        if flow.config.base_warmup and flow.needs_warmup() and warmup and not warmup.is_done():
            process_resources(flow.config)
        flow.check_resources(until)
    return ["whether all nodes see the storage"] if "RAY_ADDRESS" in os.environ else []


def _stages(flow: Flow, until: Until) -> list[PlannedStage]:
    """The stages in their order, up to the last one."""
    found, wanted = [], UNTIL[: UNTIL.index(until) + 1]
    for key, stage in flow.plan.stages.items():
        kind = stage.kind.name
        work = "reuse" if stage.is_done() else "compute"
        if stage is flow.plan.warmup and not flow.needs_warmup() and not stage.is_done():
            work = "compute" if until == "warmup" else "skip"
        if kind not in UNTIL or kind in wanted:
            found.append(PlannedStage(key, stage.name, work))
    return found
