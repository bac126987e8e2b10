"""Stages that several trials share; they are made before the trials, which run side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from smt_ray.artifacts.stages import Stage
from smt_ray.run.flow import Flow
from smt_ray.search.planned import PlannedSearch
from smt_ray.stages.tokens import make_tokens


def make_shared(search: PlannedSearch, parent_run_id: str | None) -> None:
    """Makes the warm-ups of all trials, and the selections and tokens that several trials share.

    Trials that are already trained do not count. If points are drawn one after the other, a warm-up
    that only one of the checked points needs is not made here. The first trial that needs it makes
    it.
    """
    flows = [flow for flow in search.flows if not flow.plan.training.is_done()]
    for flow in _makers(flows, [flow.plan.selection for flow in flows], at_least=2):
        Flow(flow.config, parent_run_id).run("selection")  # makes its warm-up too
    warmups = [flow.plan.warmup if flow.needs_warmup() else None for flow in flows]
    for flow in _makers(flows, warmups, 1 if search.config.draws_all_points_first else 2):
        Flow(flow.config, parent_run_id).run("warmup")
    for flow in _makers(flows, [flow.plan.tokens for flow in flows], at_least=2):
        make_tokens(flow.plan)


def _makers(
    flows: Sequence[Flow], stages: Sequence[Stage[Any] | None], at_least: int
) -> list[Flow]:
    """The first flow of each unfinished stage that at least so many flows have."""
    counts = Counter(stage.name for stage in stages if stage)
    first: dict[str, Flow] = {}
    for flow, stage in zip(flows, stages, strict=True):
        if stage and counts[stage.name] >= at_least and not stage.is_done():
            first.setdefault(stage.name, flow)
    return list(first.values())
