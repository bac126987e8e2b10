"""Many runs in one Ray: finished runs are skipped, and failed runs are noted.

Runs share tokens, warm-ups and evaluations of the base model through their stages, without knowing
of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.stages import Stage
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.documents.base import Document
from smt_ray.documents.run import RunMetrics
from smt_ray.documents.stages import Until
from smt_ray.errors import UserError
from smt_ray.grid.side_by_side import concurrent_runs, side_by_side
from smt_ray.reporting.text.progress import say
from smt_ray.run.flow import Flow
from smt_ray.stages.plan import RunPlan, make_plan

S = TypeVar("S", bound=Document)


class Outcome(NamedTuple):
    """The outcome of a run.

    Attributes:
        metrics: The metrics of the run; None if it failed.
        error: The reason why it failed, in one line; "" if it did not fail.
        reused: Whether it was already finished.
        started: Whether it was started. If it was not, ``error`` says why.
    """

    folder: RunFolder
    metrics: RunMetrics | None
    error: str = ""
    reused: bool = False
    started: bool = True


def check_grid(configs: Iterable[RunConfig]) -> dict[str, Flow]:
    """Refuses a grid with a run that cannot work, before anything starts.

    Args:
        configs: The runs; those with the same name are the same.

    Returns:
        Run -> its flow. A stage that several runs have is one object, so its files are hashed once.

    Raises:
        UserError: A run cannot work; it is named.
    """
    distinct = _distinct(configs)
    flows: dict[str, Flow] = {}
    stages: dict[str, Stage[Any]] = {}
    # The cache of rows is small: runs with the same rows are planned one after the other.
    for config in sorted(distinct, key=lambda run: (run.data.model_dump_json(), run.seed)):
        try:
            flow = flows[config.name] = Flow(config)
            flow.plan = _share_stages(flow.plan, stages)
            flow.check()
        except UserError as error:
            raise error.within(config.name) from None
    for root in {flow.storage.root for flow in flows.values()}:
        Storage(root).check_writable()
    return {config.name: flows[config.name] for config in distinct}


def run_grid(
    configs: Iterable[RunConfig],
    *,
    parent_run_id: str | None = None,
    until: Until = "evaluation",
    at_once: int | None = 1,
) -> dict[str, Outcome]:
    """Carries out runs; returns run -> its outcome, in the given order.

    Runs with the same name are the same and carried out once.

    Args:
        at_once: The largest number of runs at the same time; None for as many as the cluster holds.
    """
    distinct = _distinct(configs)
    places = _places(distinct, at_once)
    if places > 1:
        work = partial(_carry_out, parent_run_id=parent_run_id, until=until, in_turns=True)
        return _run_side_by_side(distinct, work, until, places)
    outcomes: dict[str, Outcome] = {}
    for number, config in enumerate(distinct, 1):
        say(f"run {number} of {len(distinct)}: {config.name}")
        outcomes[config.name] = _find_outcome(config, until) or _outcome(
            config, partial(_carry_out, config, parent_run_id, until)
        )
    return outcomes


def _places(configs: Sequence[RunConfig], at_once: int | None) -> int:
    """The number of runs at the same time."""
    if at_once == 1 or len(configs) < 2:
        return 1
    try:
        return min(concurrent_runs(configs, at_once), len(configs))
    except UserError:  # the run that the cluster cannot hold says so itself
        return 1


def _run_side_by_side(
    configs: Sequence[RunConfig],
    work: Callable[[RunConfig], RunMetrics],
    until: Until,
    at_once: int,
) -> dict[str, Outcome]:
    found = {config.name: _find_outcome(config, until) for config in configs}
    left = [config for config in configs if found[config.name] is None]
    say(f"{len(left)} of {len(configs)} runs are left, {at_once} at a time")
    for number, (config, result) in enumerate(side_by_side(work, left, at_once), 1):
        outcome = found[config.name] = _outcome(config, result)
        if not outcome.error:
            say(f"run {number} of {len(left)} has ended: {config.name}")
    return {name: outcome for name, outcome in found.items() if outcome is not None}


def _distinct(configs: Iterable[RunConfig]) -> list[RunConfig]:
    return list({config.name: config for config in configs}.values())


def _share_stages(plan: RunPlan, known: dict[str, Stage[Any]]) -> RunPlan:
    """The plan with known stages instead of its own ones; the others become known."""

    def share(stage: Stage[S]) -> Stage[S]:
        return known.setdefault(stage.uri, stage)

    return replace(
        plan,
        tokens=share(plan.tokens),
        warmup=share(plan.warmup) if plan.warmup else None,
        selection=share(plan.selection) if plan.selection else None,
        training=share(plan.training),
        evaluations={who: share(stage) for who, stage in plan.evaluations.items()},
    )


def _carry_out(
    config: RunConfig, parent_run_id: str | None, until: Until, *, in_turns: bool = False
) -> RunMetrics:
    return Flow(config, parent_run_id, in_turns=in_turns).run(until)


def _find_outcome(config: RunConfig, until: Until) -> Outcome | None:
    """The outcome of a run that was finished before."""
    folder = _folder(config)
    try:
        metrics = _find_finished(folder, config, until)
    except Exception as error:
        return _failure(config, error)
    return Outcome(folder, metrics, reused=True) if metrics else None


def _outcome(config: RunConfig, work: Callable[[], RunMetrics]) -> Outcome:
    """The outcome of a run that is carried out."""
    try:
        return Outcome(_folder(config), work())
    except Exception as error:  # the other runs are still carried out
        return _failure(config, error)


def _failure(config: RunConfig, error: Exception) -> Outcome:
    reason = " ".join(str(error).split())
    say(f"FAILED {config.name}: {reason}")
    return Outcome(_folder(config), None, error=reason or type(error).__name__)


def _folder(config: RunConfig) -> RunFolder:
    return RunFolder(Storage(config.storage), config.name)


def _find_finished(folder: RunFolder, config: RunConfig, until: Until) -> RunMetrics | None:
    """The metrics of a run that was finished with this configuration and still has its stages."""
    manifest = folder.manifest()
    if manifest.status != "FINISHED" or manifest.semantic != config.semantic_tree():
        return None
    plan = make_plan(config)
    wanted = {*plan.last_stages(until), *manifest.stages}
    return folder.metrics() if all(plan.stages[key].is_done() for key in wanted) else None
