"""The search space in Ray Tune's terms: domains, and the points that are drawn from them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from smt_ray.config.search import Domain, SearchConfig
from smt_ray.documents.search import Point
from smt_ray.errors import UserError


def tune_domains(config: SearchConfig) -> dict[str, Any]:
    """Key -> Ray Tune's domain.

    Raises:
        UserError: Ray Tune refuses the arguments of a domain.
    """
    return {key: _tune_domain(key, domain) for key, domain in config.domains.items()}


def draw_points(config: SearchConfig) -> list[Point]:
    """The distinct points of a search that draws all of them first; every call draws the same.

    Raises:
        UserError: Ray Tune refuses the arguments of a domain.
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


def corner_points(config: SearchConfig) -> list[Point]:
    """Points that together have every value of each list and both ends of each range.

    A search that draws its points one after the other is checked with these.
    """
    ends = {key: domain.ends() for key, domain in config.domains.items()}
    most = max(map(len, ends.values()))
    return [
        {key: values[min(i, len(values) - 1)] for key, values in ends.items()} for i in range(most)
    ]


def _tune_domain(key: str, domain: Domain) -> Any:
    from ray import tune

    arguments = [domain.values] if domain.kind in ("choice", "grid_search") else domain.values
    try:
        return getattr(tune, domain.kind)(*arguments)
    except ValueError as error:
        raise UserError(
            f"space.{key}", f"Ray Tune refuses it ({error})", got={domain.kind: domain.values}
        ) from None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
