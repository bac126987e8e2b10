"""A search's space in Ray Tune's terms: its domains, the points drawn from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from smt_ray.config.comparison import Overrides
from smt_ray.config.run import RunConfig
from smt_ray.config.search import Domain, SearchConfig
from smt_ray.errors import UserError
from smt_ray.stages.plan import make_plan


def tune_domains(config: SearchConfig) -> dict[str, Any]:
    """Ray Tune's domain of each key.

    Raises:
        UserError: Ray Tune does not take its numbers.
    """
    return {key: _tune_domain(key, domain) for key, domain in config.domains.items()}


def draw_points(config: SearchConfig) -> list[Overrides]:
    """The distinct points of a search that draws them all beforehand, the same at every call.

    Raises:
        UserError: Ray Tune does not take a domain's numbers.
    """
    domains = config.domains
    grids = {key: domain.values for key, domain in domains.items() if domain.kind == "grid_search"}
    sampled = {key: domain for key, domain in tune_domains(config).items() if key not in grids}
    generator = np.random.default_rng(config.seed)
    points = []
    for _ in range(config.num_samples):
        for combination in itertools.product(*grids.values()):
            chosen = dict(zip(grids, combination, strict=True))
            drawn = {
                key: _plain(domain.sample(random_state=generator))
                for key, domain in sampled.items()
            }
            points.append({key: {**chosen, **drawn}[key] for key in domains})
    return [point for i, point in enumerate(points) if point not in points[:i]]


def distinct_trainings(
    points: Sequence[Overrides], runs: Sequence[RunConfig]
) -> tuple[list[Overrides], list[RunConfig]]:
    """The first point of each training, and its run.

    Other points may come to the same: what a method does not read makes none its own.

    Args:
        points: A search's.
        runs: Theirs.
    """
    kept: dict[str, tuple[Overrides, RunConfig]] = {}
    for point, run in zip(points, runs, strict=True):
        kept.setdefault(make_plan(run).trained.name, (point, run))
    return [point for point, _ in kept.values()], [run for _, run in kept.values()]


def corner_points(config: SearchConfig) -> list[Overrides]:
    """Points that between them have every value of a list and both ends of every range.

    What a search that draws as it goes is checked by before it starts.
    """
    ends = {key: domain.ends() for key, domain in config.domains.items()}
    most = max(map(len, ends.values()))
    return [{key: values[min(i, len(values) - 1)] for key, values in ends.items()}
            for i in range(most)]  # fmt: skip


def _tune_domain(key: str, domain: Domain) -> Any:
    from ray import tune

    numbers = [domain.values] if domain.kind in ("choice", "grid_search") else domain.values
    try:
        return getattr(tune, domain.kind)(*numbers)
    except ValueError as error:
        raise UserError(
            f"space.{key}", f"Ray Tune refuses it ({error})", got={domain.kind: domain.values}
        ) from None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
