"""Claims about the stages that a search makes before its trials start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.layout import SELECTION, SELECTION_PICTURE
from smt_ray.documents.stages import Until
from smt_ray.methods.blocks import check_blocks
from smt_ray.models.load import shared_skeleton
from smt_ray.probe.probe import probe_skeleton
from smt_ray.run.flow import Flow
from smt_ray.search import shared as search_shared
from smt_ray.search.planned import plan_search
from smt_ray.search.shared import make_shared
from smt_ray.stages import selection as selection_stage
from smt_ray.stages.plan import RunPlan, make_plan
from tests.finished_runs import publish_stage
from tests.search.searches import KEY, leave_trained, make_search

SIZES = {"selection.block_size": {"grid_search": [32, 64]}}
RATES = {KEY: {"grid_search": [1e-3, 2e-3]}}
STEPS = {"warmup.num_steps": {"grid_search": [5, 10]}}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that are made; nothing is computed."""
    found: list[str] = []

    def make(plan: RunPlan, key: str) -> None:
        if not plan.stages[key].is_done():
            found.append(key)
            publish_stage(plan, key)

    def run(flow: Flow, until: Until) -> None:
        make(flow.plan, "tokens")
        if flow.needs_warmup():
            make(flow.plan, "warmup")
        if until == "selection":
            make(flow.plan, "selection")

    monkeypatch.setattr(Flow, "run", run)
    monkeypatch.setattr(search_shared, "make_tokens", lambda plan: make(plan, "tokens"))
    return found


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
def test_shared_stages_are_made_once_and_the_others_are_left_to_the_trials(
    tmp_path: Path, made: list[str], space: dict[str, Any], expected: dict[str, int]
) -> None:
    make_shared(plan_search(make_search(tmp_path, space=space)), None)
    assert {stage: made.count(stage) for stage in expected} == expected


def test_a_warm_up_that_optuna_may_not_need_is_left_to_its_trial(
    tmp_path: Path, made: list[str]
) -> None:
    space = {"warmup.num_steps": {"choice": [5, 10]}}
    make_shared(plan_search(make_search(tmp_path, space=space, algorithm="optuna")), None)
    assert made == ["tokens"]


def test_nothing_is_made_if_all_trials_are_trained(tmp_path: Path, made: list[str]) -> None:
    search = plan_search(make_search(tmp_path, space=RATES))
    for point in search.points:
        leave_trained(search.config, point, {8: 0.5})
    make_shared(search, None)
    assert made == []


def test_a_selection_has_the_same_bytes_whichever_run_makes_it(tmp_path: Path) -> None:
    found = []
    for place, rate in (("one", 1e-3), ("other", 2e-3)):
        config = make_search(tmp_path / place, run={"selection": {"score": "random"}})
        plan = make_plan(config.make_run({KEY: rate}))
        assert plan.selection
        skeleton = shared_skeleton(plan.model, plan.identity)
        blocks = check_blocks(plan.config, skeleton, probe_skeleton(skeleton))
        selection_stage._select(selection_stage.selection_job(plan, blocks))
        folder = tmp_path / place / plan.selection.folder
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1]
    assert set(found[0]) == {SELECTION, SELECTION_PICTURE}
