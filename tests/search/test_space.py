"""Claims about the domains and points of a search."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.errors import UserError
from smt_ray.search.space import corner_points, draw_points, tune_domains


def make(space: dict[str, Any], **changes: Any) -> SearchConfig:
    return validate_section(SearchConfig, {"name": "s", "run": {}, "space": space, **changes})


def test_every_domain_is_ray_tunes_domain_of_that_name() -> None:
    space = {
        "choice": {"choice": [1, 2]},
        "uniform": {"uniform": [0, 1]},
        "loguniform": {"loguniform": [0.1, 1]},
        "quniform": {"quniform": [0, 1, 0.25]},
        "qloguniform": {"qloguniform": [0.5, 4, 0.5]},
        "randint": {"randint": [0, 4]},
        "lograndint": {"lograndint": [1, 4]},
        "qrandint": {"qrandint": [0, 8, 4]},
        "qlograndint": {"qlograndint": [2, 8, 2]},
    }
    points = draw_points(make(space, num_samples=40))
    assert {point["choice"] for point in points} == {1, 2}
    assert all(0 <= point["uniform"] <= 1 for point in points)
    assert all(0.1 <= point["loguniform"] <= 1 for point in points)
    assert {point["quniform"] for point in points} <= {0, 0.25, 0.5, 0.75, 1}
    assert all((2 * point["qloguniform"]).is_integer() for point in points)
    assert {point["randint"] for point in points} == {0, 1, 2, 3}
    assert {point["lograndint"] for point in points} == {1, 2, 3}
    assert {point["qrandint"] for point in points} == {0, 4, 8}
    assert {type(point["qlograndint"]) for point in points} == {int}


def test_equal_seeds_draw_equal_points_and_other_seeds_draw_others() -> None:
    space = {"a": {"uniform": [0, 1]}, "b": {"choice": [1, 2, 3]}}
    search = make(space, num_samples=5)
    assert draw_points(search) == draw_points(search)
    assert draw_points(search) != draw_points(make(space, num_samples=5, seed=1))


def test_each_combination_of_the_grids_is_drawn_num_samples_times() -> None:
    space = {"a": {"grid_search": [1, 2]}, "b": {"uniform": [0, 1]}, "c": {"grid_search": [3, 4]}}
    points = draw_points(make(space, num_samples=2))
    assert [(point["a"], point["c"]) for point in points] == [(1, 3), (1, 4), (2, 3), (2, 4)] * 2
    assert len({point["b"] for point in points}) == 8
    assert list(points[0]) == ["a", "b", "c"]


def test_equal_points_are_deduplicated() -> None:
    assert len(draw_points(make({"a": {"choice": [1, 2]}}, num_samples=20))) == 2


def test_arguments_that_ray_tune_refuses_are_an_error_that_names_the_key() -> None:
    with pytest.raises(UserError, match=r"space\.a.*divisible"):
        draw_points(make({"a": {"quniform": [0.1, 1.0, 0.3]}}))
    with pytest.raises(UserError, match=r"space\.a.*greater than 0"):
        tune_domains(make({"a": {"loguniform": [0, 1]}}))


def test_corner_points_have_every_value_of_a_list_and_both_ends_of_a_range() -> None:
    points = corner_points(make({"a": {"choice": [1, 2, 3]}, "b": {"uniform": [0.0, 1.0]}}))
    assert points == [{"a": 1, "b": 0.0}, {"a": 2, "b": 1.0}, {"a": 3, "b": 1.0}]


def test_optuna_accepts_the_domains() -> None:
    from ray.tune.search.optuna import OptunaSearch

    space = {
        "selection.block_size": {"choice": [8, 16]},
        "selection.budget": {"quniform": [0.01, 0.1, 0.005]},
        "training.learning_rate": {"loguniform": [1e-5, 1e-2]},
    }
    optuna = OptunaSearch(seed=0)
    assert optuna.set_search_properties("loss", "min", tune_domains(make(space)))
    point = optuna.suggest("trial")
    assert set(point) == set(space)
    assert point["selection.block_size"] in (8, 16)
    assert (point["selection.budget"] / 0.005) == pytest.approx(
        round(point["selection.budget"] / 0.005)
    )
    assert 1e-5 <= point["training.learning_rate"] <= 1e-2
