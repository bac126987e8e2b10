from __future__ import annotations

import pytest

from smt_ray.builtin import suites
from smt_ray.config.tasks import OwnTask
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import SUITES, TASKS, find_tasks, own_task


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


def test_a_suite_stands_for_its_tasks_and_each_task_comes_once() -> None:
    names = list(find_tasks(["gsm8k", "math", "boolq", "gsm8k"]))
    assert names == ["gsm8k", "MultiArith", "AddSub", "AQuA", "SingleEq", "SVAMP", "boolq"]


def test_an_unknown_name_names_the_suites_too() -> None:
    with pytest.raises(UserError, match=r"commonsense, math, builtin, boolq.*got 'arithmetic'"):
        find_tasks(["boolq", "arithmetic"])


def own(**given: object) -> OwnTask:
    return OwnTask.model_validate({"name": "mine", "rows": "a.json", "answer": "exact", **given})


def test_a_task_of_ones_own_stands_beside_the_published_ones() -> None:
    entry = own()
    assert find_tasks(["boolq", entry]) == {"boolq": TASKS["boolq"], "mine": entry}


@pytest.mark.parametrize(
    ("given", "kind", "candidates", "limit"),
    [
        ({"answer": "labels", "labels": ["a", "b"]}, "word", "labels", 32),
        ({"answer": "number"}, "number", None, 256),
        ({"answer": "exact", "max_new_tokens": 9}, "exact", None, 9),
        ({"answer": "contains"}, "contains", None, 256),
        ({"answer": "regex", "pattern": "x"}, "regex", None, 256),
    ],
)
def test_a_task_of_ones_own_is_read_as_its_answer_says(
    given: dict[str, object], kind: str, candidates: str | None, limit: int
) -> None:
    task = own_task(own(**given))
    assert (task.suite, task.answer) == ("own", kind)
    assert (task.candidates, task.max_new_tokens) == (candidates, limit)


@pytest.mark.parametrize("name", ["boolq", "math"])
def test_a_task_of_ones_own_has_a_name_of_its_own(name: str) -> None:
    with pytest.raises(UserError, match=f"name of a published one; got '{name}'"):
        own_task(own(name=name))


def test_a_label_that_begins_another_one_counts_with_its_end() -> None:
    assert own_task(own(answer="labels", labels=["yes", "yes, but"])).ends_matter
    assert not own_task(own(answer="labels", labels=["yes", "no"])).ends_matter
    assert not TASKS["boolq"].ends_matter
