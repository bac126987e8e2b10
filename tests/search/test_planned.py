"""Claims about planned searches: checked, deduplicated, and planned once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smt_ray.search import planned
from smt_ray.search.planned import plan_search
from smt_ray.search.space import draw_points
from tests.search.searches import KEY, POINTS, make_search


def test_only_the_first_point_of_each_training_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"method": {"grid_search": ["smt", "lora"]}, "lora.rank": {"grid_search": [8, 16]}}
    search = plan_search(make_search(tmp_path, space=space))
    assert search.points == [
        {"method": "smt", "lora.rank": 8},
        {"method": "lora", "lora.rank": 8},
        {"method": "lora", "lora.rank": 16},
    ]
    assert search.num_trials == 3
    names = [search.config.make_run(point).name for point in search.points]
    assert [run.name for run in search.runs] == names
    said = capsys.readouterr().err
    assert "1 of 4 points were deduplicated: they describe the same training" in said


def test_points_that_differ_in_settings_that_their_score_ignores_are_deduplicated(
    tmp_path: Path,
) -> None:
    space = {"warmup.num_steps": {"grid_search": [5, 10]}}
    config = make_search(tmp_path, space=space, run={"selection": {"score": "magnitude"}})
    points = draw_points(config)
    assert config.make_run(points[0]).name != config.make_run(points[1]).name
    assert plan_search(config).points == points[:1]


def test_optuna_has_as_many_trials_as_samples_whatever_points_are_checked(tmp_path: Path) -> None:
    space = {KEY: {"loguniform": [1e-4, 1e-1]}}
    search = plan_search(make_search(tmp_path, space=space, algorithm="optuna", num_samples=5))
    assert (len(search.points), search.num_trials) == (2, 5)


def test_the_run_of_a_point_is_planned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = plan_search(make_search(tmp_path))
    plans: list[Any] = []
    make_plan = planned.make_plan

    def count(run: Any) -> Any:
        plans.append(run)
        return make_plan(run)

    monkeypatch.setattr(planned, "make_plan", count)
    assert [search.plan(point) for point in POINTS] == [flow.plan for flow in search.flows]
    assert not plans
    assert search.plan({KEY: 0.5}) is search.plan({KEY: 0.5})
    assert len(plans) == 1
