from __future__ import annotations

import json
from pathlib import Path

import pytest

from smt_ray.builtin.suites import generate_rows
from smt_ray.config.tasks import OwnTask
from smt_ray.data.rows import Row
from smt_ray.data.sources import Reading, parse_records
from smt_ray.errors import UserError
from smt_ray.evaluation.candidates import answer_pool, complete, row_candidates
from smt_ray.evaluation.tasks import SUITES, TASKS, own_task


def test_the_candidates_are_the_labels_that_the_row_lists() -> None:
    row = Row("Which?\n\nAnswer format: answer1/answer2/answer3", "is answer2", answer="answer2")
    assert row_candidates(TASKS["social_i_qa"], row, [], "row 0") == [
        "answer1",
        "answer2",
        "answer3",
    ]


def test_a_row_without_listed_labels_has_all_labels_of_its_task() -> None:
    row = Row("Is it so?", "true", answer="true")
    assert row_candidates(TASKS["boolq"], row, [], "row 0") == ["true", "false"]


def test_the_pool_holds_each_answer_once_sorted_by_size() -> None:
    rows = [Row("?", "", answer=answer) for answer in ("10", "9", "-1", "10", "x")]
    assert answer_pool(rows) == ["-1", "9", "10", "x"]


def test_an_answer_outside_the_candidates_is_an_error() -> None:
    row = Row("?", "is 3", answer="3")
    with pytest.raises(UserError, match="row 7: answer must be one of 1, 2; got '3'"):
        row_candidates(TASKS["tiny_arithmetic"], row, ["1", "2"], "row 7")


def test_a_task_answered_in_prose_has_no_likelihood() -> None:
    with pytest.raises(UserError, match="gsm8k has none"):
        row_candidates(TASKS["gsm8k"], Row("?", "3", answer="3"), ["3"], "row 0")


def test_a_completion_is_the_output_with_another_answer() -> None:
    row = Row("?", "the correct answer is answer2", answer="answer2")
    assert complete(TASKS["boolq"], row, "answer4", "row 0") == "the correct answer is answer4"


@pytest.mark.parametrize("output", ["", "2 and 2", "two"])
def test_an_output_that_does_not_state_its_answer_exactly_once_is_an_error(output: str) -> None:
    with pytest.raises(UserError, match="row 3, field 'output'"):
        complete(TASKS["boolq"], Row("?", output, answer="2"), "4", "row 3")


def completes_its_own_output(task: str, rows: list[Row]) -> bool:
    pool = answer_pool(rows)
    return all(
        row.answer in row_candidates(TASKS[task], row, pool, "")
        and complete(TASKS[task], row, row.answer, "") == row.output
        for row in rows
    )


@pytest.mark.parametrize("task", SUITES["builtin"])
def test_every_builtin_row_has_its_answer_among_its_candidates(task: str) -> None:
    records = generate_rows(task, "test")
    rows = list(parse_records(records, task, Reading(is_test=True)).rows)
    assert completes_its_own_output(task, rows)


@pytest.mark.parametrize("task", SUITES["commonsense"])
def test_every_commonsense_row_has_its_answer_among_its_candidates(
    data_dir: Path, task: str
) -> None:
    records = json.loads((data_dir / task / "test.json").read_text(encoding="utf-8"))
    rows = list(parse_records(records, task, Reading(is_test=True)).rows)
    assert completes_its_own_output(task, rows)


def test_the_labels_of_ones_own_task_complete_the_output_or_stand_alone() -> None:
    section = {"name": "mine", "rows": "a", "answer": "labels", "labels": ["good", "bad"]}
    task = own_task(OwnTask.model_validate(section))
    stated = Row("Answer format: good/worse", "It is good.", answer="good")
    assert row_candidates(task, stated, [], "row 0") == ["good", "bad"]
    assert complete(task, stated, "bad", "row 0") == "It is bad."
    assert complete(task, Row("?", "Good", answer="good"), "bad", "row 0") == "bad"
    assert complete(task, Row("?", "The goods are Good.", answer="good"), "bad", "row 0") == (
        "The goods are bad."
    )
    assert complete(task, Row("?", "good or good", answer="good"), "bad", "row 0") == "bad"
