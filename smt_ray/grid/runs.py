"""Runs one after the other in one Ray: finished ones are skipped, failed ones noted.

What runs have in common (tokens, a warm-up, the base model's evaluation) they share through their
stages, without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say
from smt_ray.run.flow import Flow
from smt_ray.stages.plan import make_plan


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
        folder: The run's.
        metrics: What its ``metrics.json`` holds; empty where it failed.
        error: Why it failed, in a line; "" where it did not.
        reused: Whether it was finished before.
        started: Whether it was tried at all; where not, an error says why.
    """

    folder: RunFolder
    metrics: dict[str, Any]
    error: str = ""
    reused: bool = False
    started: bool = True


def check_grid(configs: Iterable[RunConfig]) -> None:
    """Refuses a grid with a run that cannot work, before anything starts.

    Raises:
        UserError: The first such run's error.
    """
    for config in _distinct(configs):
        try:
            Flow(config).check()
        except UserError as error:
            raise UserError(
                f"{config.name}: {error.field}", error.rule, got=error.got, fix=error.fix
            ) from None


def run_grid(
    configs: Iterable[RunConfig],
    *,
    parent_run_id: str | None = None,
    until: str = "evaluation",
) -> dict[str, Outcome]:
    """Carries out runs, each of a name once.

    Args:
        configs: The runs; those of one name are the same.
        parent_run_id: MLflow's id of the run that they are shown under.
        until: The last stage of each; see :data:`smt_ray.run.flow.UNTIL`.

    Returns:
        By name, in the order given.
    """
    distinct = _distinct(configs)
    outcomes: dict[str, Outcome] = {}
    for number, config in enumerate(distinct, 1):
        say(f"run {number} of {len(distinct)}: {config.name}")
        finished = _finished(config, until)
        outcomes[config.name] = finished or _carry_out(config, parent_run_id, until)
    return outcomes


def _distinct(configs: Iterable[RunConfig]) -> list[RunConfig]:
    return list({config.name: config for config in configs}.values())


def _finished(config: RunConfig, until: str) -> Outcome | None:
    """A run that is done already, by the very config and with all that it made still there."""
    folder = RunFolder(Storage(config.storage), config.name)
    manifest = folder.manifest()
    place = folder.path("metrics.json")
    if manifest.get("status") != "FINISHED" or not folder.storage.exists(place):
        return None
    if manifest["semantic"] != config.semantic_tree():
        return None
    stages = make_plan(config).stages
    wanted = {kind for kind in stages if kind.startswith(until)} | set(manifest["stages"])
    if any(stages[kind].manifest() is None for kind in wanted):
        return None
    return Outcome(folder, folder.storage.read_json(place), reused=True)


def _carry_out(config: RunConfig, parent_run_id: str | None, until: str) -> Outcome:
    folder = RunFolder(Storage(config.storage), config.name)
    try:
        return Outcome(folder, Flow(config, parent_run_id=parent_run_id).run(until))
    except Exception as error:  # a run's failure is an outcome: the others go on
        reason = " ".join(str(error).split())
        say(f"FAILED {config.name}: {reason}")
        return Outcome(folder, {}, error=reason or type(error).__name__)
