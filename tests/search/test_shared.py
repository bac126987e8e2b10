"""Claims about what a search makes before its trials start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.methods.blocks import check_model, skeleton_of
from smt_ray.run.flow import Flow
from smt_ray.search import shared as search_shared
from smt_ray.search.space import draw_points
from smt_ray.stages import warmup as warmup_graph
from smt_ray.stages.plan import make_plan
from tests.search.searches import KEY, leave_run, make_search

SIZES = {"selection.block_size": {"grid_search": [16, 32]}}
RATES = {KEY: {"grid_search": [1e-3, 2e-3]}}
STEPS = {"warmup.num_steps": {"grid_search": [5, 10]}}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is made, of which nothing is computed."""
    found: list[str] = []

    def publish(name: str, flow: Flow) -> None:
        stage = flow.plan.stages[name]
        if stage.manifest() is None:
            found.append(name)
            stage.publish([], {}, 0.0)

    def run(flow: Flow, until: str) -> None:
        publish("tokens", flow)
        if flow.needs_warmup():
            publish("warmup", flow)
        if until == "selection":
            publish("selection", flow)

    def make_tokens(plan: Any) -> None:
        found.append("tokens")
        plan.tokens.publish([], {}, 0.0)

    monkeypatch.setattr(Flow, "run", run)
    monkeypatch.setattr(search_shared, "make_tokens", make_tokens)
    return found


def runs_of(config: SearchConfig) -> list[RunConfig]:
    return [config.make_run(point) for point in draw_points(config)]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (RATES, {"tokens": 1, "warmup": 1, "selection": 1}),
        (SIZES, {"tokens": 1, "warmup": 1, "selection": 0}),
        (RATES | SIZES, {"tokens": 1, "warmup": 1, "selection": 2}),
        (STEPS, {"tokens": 1, "warmup": 2, "selection": 0}),
        (STEPS | RATES, {"tokens": 1, "warmup": 2, "selection": 2}),
        ({"method": {"grid_search": ["lora", "full"]}}, {"tokens": 1, "warmup": 0, "selection": 0}),
    ],
)
def test_what_trials_share_is_made_once_and_the_rest_is_left_to_them(
    tmp_path: Path, made: list[str], space: dict[str, Any], expected: dict[str, int]
) -> None:
    search_shared.make_shared(runs_of(make_search(tmp_path, space=space)), None)
    assert {stage: made.count(stage) for stage in expected} == expected


def test_a_search_that_draws_as_it_goes_leaves_a_warm_up_of_one_corner_to_its_trial(
    tmp_path: Path, made: list[str]
) -> None:
    runs = runs_of(make_search(tmp_path, space=STEPS))
    search_shared.make_shared(runs, None, all_are_trials=False)
    assert made == ["tokens"]


def test_nothing_is_made_for_trials_that_are_trained_already(
    tmp_path: Path, made: list[str]
) -> None:
    config = make_search(tmp_path, space=RATES)
    for point in draw_points(config):
        leave_run(config, point, {8: 0.5})
    search_shared.make_shared(runs_of(config), None)
    assert made == []


def test_a_selection_is_the_same_bytes_whichever_run_makes_it(tmp_path: Path) -> None:
    found = []
    for place, rate in (("one", 1e-3), ("other", 2e-3)):
        config = make_search(tmp_path / place, run={"selection": {"score": "random"}})
        plan = make_plan(config.make_run({KEY: rate}))
        assert plan.selection
        preflight = check_model(plan.config, skeleton_of(plan))
        warmup_graph._select(warmup_graph.selection_job(plan, plan.selection, preflight))
        folder = tmp_path / place / plan.selection.folder
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {"selection.safetensors", "selection.png"}
