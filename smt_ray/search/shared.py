"""What trials of a search have in common, made before they would all make it beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from smt_ray.artifacts.stages import Stage
from smt_ray.config.run import RunConfig
from smt_ray.run.flow import Flow
from smt_ray.stages.tokens import make_tokens


def make_shared(
    runs: Sequence[RunConfig], parent_run_id: str | None, *, all_are_trials: bool = True
) -> None:
    """Makes warm-ups, and the selections and tokens that two or more runs share.

    Args:
        runs: Those that are still to be trained count.
        parent_run_id: MLflow's id of the search.
        all_are_trials: Whether each run will be a trial. Where not, a warm-up that one run alone
            needs may be of no use, and is left to its trial.
    """
    flows = [Flow(run, parent_run_id) for run in runs]
    flows = [flow for flow in flows if not flow.plan.trained.is_done()]
    for flow in _makers(flows, [flow.plan.selection for flow in flows], at_least=2):
        flow.run("selection")  # and the warm-up that it needs
    warmups = [flow.plan.warmup if _needs_warmup(flow) else None for flow in flows]
    for flow in _makers(flows, warmups, at_least=1 if all_are_trials else 2):
        Flow(flow.config, parent_run_id).run("warmup")
    for flow in _makers(flows, [flow.plan.tokens for flow in flows], at_least=2):
        make_tokens(flow.plan)


def _needs_warmup(flow: Flow) -> bool:
    return flow.plan.warmup is not None and flow.needs_warmup()


def _makers(flows: Sequence[Flow], stages: Sequence[Stage | None], at_least: int) -> list[Flow]:
    """The first flow of each stage that is not there, and that so many of them have."""
    times = Counter(stage.name for stage in stages if stage)
    first: dict[str, Flow] = {}
    for flow, stage in zip(flows, stages, strict=True):
        if stage and times[stage.name] >= at_least and not stage.is_done():
            first.setdefault(stage.name, flow)
    return list(first.values())
