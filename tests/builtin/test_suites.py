"""Claims about the rows: their format, their balance, and that their answers are true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter

import pytest

from smt_ray.builtin.almanac import NUM_CHOICES, RELATIONS
from smt_ray.builtin.suites import SPLITS, TASKS, generate_rows
from smt_ray.builtin.world import facts
from smt_ray.errors import UserError

ALL = [(task, split) for task in TASKS for split in SPLITS]
FORMAT = re.compile(r"Answer format: (\S+)$")


def choices_of(row: dict[str, str]) -> list[str]:
    match = FORMAT.search(row["instruction"])
    assert match is not None
    return match[1].split("/")


@pytest.mark.parametrize(("task", "split"), ALL)
def test_rows_are_the_same_in_another_process(task: str, split: str) -> None:
    code = (
        "import json; from smt_ray.builtin.suites import generate_rows; "
        f"print(json.dumps(generate_rows({task!r}, {split!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == generate_rows(task, split)


@pytest.mark.parametrize(("task", "split"), ALL)
def test_rows_have_the_published_fields_and_state_their_answer_once(task: str, split: str) -> None:
    for row in generate_rows(task, split):
        assert list(row) == ["instruction", "input", "output", "answer"]
        assert row["input"] == ""
        assert row["output"] == f"the correct answer is {row['answer']}"


def test_splits_have_enough_rows() -> None:
    assert 2000 <= sum(len(generate_rows(task, "train")) for task in TASKS) <= 4000
    assert all(len(generate_rows(task, "test")) >= 200 for task in TASKS)


@pytest.mark.parametrize("split", SPLITS)
def test_each_choice_is_right_equally_often(split: str) -> None:
    rows = generate_rows("tiny_commonsense", split)
    counts = Counter(choices_of(row).index(row["answer"]) for row in rows)
    assert counts == dict.fromkeys(range(NUM_CHOICES), len(rows) // NUM_CHOICES)


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_is_the_value_of_the_fact(split: str) -> None:
    values = {fact.say(form): fact.value for fact in facts() for form in fact.relation.questions}
    for row in generate_rows("tiny_commonsense", split):
        question = row["instruction"].split("question: ")[1].split("\n")[0]
        assert row["answer"] == values[question]
        assert choices_of(row) in [list(r.members) for r in RELATIONS]


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_follows_from_the_two_numbers_of_the_story(split: str) -> None:
    losing = re.compile(r"lost|gave|took out|sold")
    for row in generate_rows("tiny_arithmetic", split):
        a, b = map(int, re.findall(r"\d+", row["instruction"]))
        assert int(row["answer"]) == (a - b if losing.search(row["instruction"]) else a + b)


def test_no_number_is_the_answer_of_more_than_an_eighth_of_arithmetic_rows() -> None:
    rows = generate_rows("tiny_arithmetic", "test")
    [(_, most)] = Counter(row["answer"] for row in rows).most_common(1)
    assert most <= len(rows) / 8


@pytest.mark.parametrize(("task", "split"), [("tiny_history", "test"), (TASKS[0], "validation")])
def test_an_unknown_task_or_split_is_a_user_error(task: str, split: str) -> None:
    with pytest.raises(UserError, match="must be one of"):
        generate_rows(task, split)
