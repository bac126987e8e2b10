from __future__ import annotations

import pytest

from smt_ray.builtin import suites
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import SUITES, TASKS, find_task, find_tasks


def test_the_published_suites_have_eight_and_six_tasks() -> None:
    assert {suite: len(names) for suite, names in SUITES.items()} == {
        "commonsense": 8,
        "math": 6,
        "builtin": 2,
    }


def test_every_builtin_suite_is_a_task() -> None:
    assert set(suites.TASKS) == set(SUITES["builtin"])


def test_new_tokens_follow_the_published_protocol() -> None:
    assert {TASKS[name].max_new_tokens for name in SUITES["commonsense"]} == {32}
    assert {TASKS[name].max_new_tokens for name in SUITES["math"]} == {256}


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"boolq.*gsm8k.*tiny_arithmetic.*got 'bool'"):
        find_task("bool")


def test_a_suite_stands_for_its_tasks_and_each_task_comes_once() -> None:
    names = [task.name for task in find_tasks(["gsm8k", "math", "boolq", "gsm8k"])]
    assert names == ["gsm8k", "MultiArith", "AddSub", "AQuA", "SingleEq", "SVAMP", "boolq"]


def test_an_unknown_name_names_the_suites_too() -> None:
    with pytest.raises(UserError, match=r"commonsense, math, builtin, boolq.*got 'arithmetic'"):
        find_tasks(["boolq", "arithmetic"])
