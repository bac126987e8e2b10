"""A search whose points are drawn, checked and planned, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.documents.search import Point
from smt_ray.errors import UserError
from smt_ray.grid.runs import check_grid
from smt_ray.reporting.text.progress import say
from smt_ray.run.flow import Flow
from smt_ray.search.scheduling import make_scheduler, make_searcher
from smt_ray.search.space import corner_points, draw_points
from smt_ray.stages.plan import RunPlan, make_plan


class PlannedSearch:
    """A search and the flows of its points. The run of a point is planned once.

    Args:
        points: All points. If they are drawn one after the other, the points that were checked.
        flows: Run -> its flow, for the runs of these points.

    Attributes:
        flows: The flow of each point; points with the same run share one.
    """

    def __init__(
        self, config: SearchConfig, points: Sequence[Point], flows: Mapping[str, Flow]
    ) -> None:
        self.config, self.points = config, list(points)
        self._plans = {name: flow.plan for name, flow in flows.items()}
        names = dict.fromkeys(self.plan(point).config.name for point in points)
        self.flows = [flows[name] for name in names]

    @property
    def runs(self) -> list[RunConfig]:
        """The runs of the points."""
        return [flow.config for flow in self.flows]

    @property
    def num_trials(self) -> int:
        """The number of trials."""
        return len(self.points) if self.config.draws_all_points_first else self.config.num_samples

    def plan(self, point: Point) -> RunPlan:
        """The plan of a point's run.

        Raises:
            UserError: The point breaks a rule of the run's configuration.
        """
        run = self.config.make_run(point)
        if run.name not in self._plans:
            self._plans[run.name] = make_plan(run)
        return self._plans[run.name]


def plan_search(config: SearchConfig) -> PlannedSearch:
    """Draws, checks and plans the points of a search.

    Points that describe the same training are deduplicated.

    Raises:
        UserError: A point cannot work, or the package or the steps that the search needs are
            missing.
    """
    make_searcher(config)  # refuses a missing package
    draws_all = config.draws_all_points_first
    points = draw_points(config) if draws_all else corner_points(config)
    runs = [_make_run(config, point) for point in points]
    make_scheduler(config, runs)  # refuses a training that is too short
    flows = check_grid(runs)
    planned = PlannedSearch(config, points, flows)
    if not draws_all:
        return planned
    distinct = _distinct_trainings(planned)
    if num_left_out := len(points) - len(distinct):
        say(
            f"search {config.name}: {num_left_out} of {len(points)} points were deduplicated: they"
            " describe the same training as another point"
        )
    return PlannedSearch(config, distinct, flows)


def _make_run(config: SearchConfig, point: Point) -> RunConfig:
    try:
        return config.make_run(point)
    except UserError as error:
        raise error.within(f"space at {point}") from None


def _distinct_trainings(search: PlannedSearch) -> list[Point]:
    """The first point of each training.

    Points that differ only in settings that their method does not use describe the same training.
    """
    kept: dict[str, Point] = {}
    for point in search.points:
        kept.setdefault(search.plan(point).training.name, point)
    return list(kept.values())
