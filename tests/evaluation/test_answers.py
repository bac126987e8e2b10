from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smt_ray.config.tasks import OwnTask
from smt_ray.data.rows import Row
from smt_ray.data.sources import Reading, parse_records
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import (
    expected_answer,
    extract,
    is_correct,
    parse_number,
    stated_letter,
)
from smt_ray.evaluation.tasks import SUITES, TASKS, Task, own_task

READ = [
    ("boolq", "the correct answer is true", "true"),
    ("boolq", "the correct answer is false.", "false"),
    ("boolq", "it is not true, so false", "true"),  # the first one counts
    ("boolq", "untrue", "true"),  # part of a word
    ("boolq", "The answer is True", None),  # in lower case only
    ("boolq", "yes", None),
    ("piqa", "the correct answer is solution2", "solution2"),
    ("piqa", "solution1 or solution2? solution2", "solution1"),
    ("piqa", "solution3", None),
    ("social_i_qa", "the correct answer is answer3", "answer3"),
    ("hellaswag", "ending4\n\nending1", "ending4"),
    ("hellaswag", "ending5", None),
    ("winogrande", "the correct answer is option2", "option2"),
    ("ARC-Easy", "the correct answer is answer5", "answer5"),
    ("ARC-Challenge", "Answer1: answer2", "answer2"),
    ("openbookqa", "", None),
    ("tiny_commonsense", "the correct answer is sea", "sea"),
    ("tiny_commonsense", "the correct answer is moon", None),
    ("gsm8k", "A: 60 + 4 * 60 = 300. The answer is 300.", "300."),
    ("gsm8k", "The answer is $1,234.50", "1234.50"),
    ("MultiArith", "So 7 - 9 = -2", "-2"),
    ("SVAMP", "She has 3-2", "-2"),  # a minus sign as published, although it is a difference
    ("AddSub", "0.2 + 0.4 = 0.6 of a loaf", "0.6"),
    ("SingleEq", "there are no numerals here", None),
    ("SingleEq", "5 apples. That is all", "5"),
    ("SingleEq", "about .5", "5"),  # the published pattern wants a digit before the point
    ("tiny_arithmetic", "the correct answer is 12", "12"),
    ("AQuA", "The answer is (C).", "C"),
    ("AQuA", "A: the answer is (C).", "A"),  # the published rule's known fault
    ("AQuA", "none of them", None),
]


@pytest.mark.parametrize(("task", "text", "expected"), READ)
def test_extraction_follows_the_published_rule(task: str, text: str, expected: str | None) -> None:
    assert extract(TASKS[task], text) == expected


def test_a_text_is_read_up_to_a_second_response() -> None:
    text = "The answer is 4.\n\n### Response:\nThe answer is 5."
    assert extract(TASKS["gsm8k"], text) == "4."


@pytest.mark.parametrize(
    ("extracted", "expected", "correct"),
    [
        ("300", "300.0", True),
        ("300.", "300.0", True),
        ("-2", "-2.0", True),
        ("2", "-2.0", False),
        ("0.3333", "0.333", True),
        ("0.335", "0.333", False),
        ("1200", "1,200", True),
        ("9" * 400, "9.0", False),
        (None, "0.0", False),
    ],
)
def test_numbers_are_equal_if_they_differ_by_at_most_a_thousandth(
    extracted: str | None, expected: str, correct: bool
) -> None:
    assert is_correct(TASKS["gsm8k"], extracted, expected) is correct


def test_labels_and_letters_are_compared_as_text() -> None:
    assert is_correct(TASKS["boolq"], "true", "true")
    assert not is_correct(TASKS["boolq"], None, "true")
    assert is_correct(TASKS["AQuA"], "C", "C")
    assert not is_correct(TASKS["AQuA"], "C", "D")


def test_an_expected_answer_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(UserError, match="gsm8k, answer: must be a number; got 'twelve'"):
        is_correct(TASKS["gsm8k"], "12", "twelve")


def test_a_text_is_a_number_only_if_it_holds_a_finite_number_alone() -> None:
    assert [parse_number(text) for text in ("1,200.5", "-4.", "nan", "inf", "4 m", "")] == [
        1200.5,
        -4.0,
        None,
        None,
        None,
        None,
    ]


def read_rows(data_dir: Path, task: str) -> list[Row]:
    records = json.loads((data_dir / task / "test.json").read_text(encoding="utf-8"))
    return list(parse_records(records, task, Reading(is_test=True)).rows)


@pytest.mark.parametrize("task", SUITES["commonsense"])
def test_the_answer_of_every_commonsense_row_is_read_from_its_output(
    data_dir: Path, task: str
) -> None:
    rows = read_rows(data_dir, task)
    wrong = [row for row in rows if extract(TASKS[task], row.output) != row.answer]
    assert rows
    assert not wrong


_STATED = re.compile(r"answer is \(?\$?(-?[\d,]*\.?\d+|[A-E])\b")


def rows_that_state_their_answer(data_dir: Path, task: str) -> list[Row]:
    """A model wrote the reference outputs of math rows, so not all state the right answer."""

    def states(row: Row) -> bool:
        match = _STATED.search(row.output.rpartition("\n")[2])
        return match is not None and is_correct(TASKS[task], match.group(1), row.answer)

    return [row for row in read_rows(data_dir, task) if states(row)]


@pytest.mark.parametrize("task", [name for name in SUITES["math"] if name != "AQuA"])
def test_every_math_output_that_states_its_answer_is_read_as_correct(
    data_dir: Path, task: str
) -> None:
    rows = rows_that_state_their_answer(data_dir, task)
    read = [is_correct(TASKS[task], extract(TASKS[task], row.output), row.answer) for row in rows]
    assert len(rows) > 100
    assert all(read)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A: Let there be B. The answer is (C).", "C"),
        ("The answer is: C", "C"),
        ("Answer: (C), not D", "C"),
        ("the correct answer is option E.", "E"),
        ("The answer is (A)? No. The answer is (C).", "C"),
        ("(C)", "C"),
        ("C or D", None),
        ("Divide by ABBA.", None),
        ("none of them", None),
        ("The answer is (C).### Response: The answer is (D)", "C"),
    ],
)
def test_the_corrected_letter_rule_reads_what_is_stated(text: str, letter: str | None) -> None:
    assert stated_letter(TASKS["AQuA"], text) == letter


def test_the_corrected_letter_rule_reads_every_output_that_states_its_answer(
    data_dir: Path,
) -> None:
    rows = rows_that_state_their_answer(data_dir, "AQuA")
    assert len(rows) > 50
    assert all(stated_letter(TASKS["AQuA"], row.output) == row.answer for row in rows)


def test_the_published_letter_rule_misreads_outputs_that_state_their_answer(
    data_dir: Path,
) -> None:
    rows = rows_that_state_their_answer(data_dir, "AQuA")
    misread = [row for row in rows if extract(TASKS["AQuA"], row.output) != row.answer]
    assert 0 < len(misread) < len(rows) / 2


def own(answer: str, **given: object) -> Task:
    values = {"name": "mine", "rows": "a.json", "answer": answer, **given}
    return own_task(OwnTask.model_validate(values))


LABELS = own("labels", labels=["no", "not sure", "Yes"])
STEPS = own("regex", pattern=r"#### (\S+)")


@pytest.mark.parametrize(
    ("task", "text", "expected", "right"),
    [
        (LABELS, "I am not sure, no.", "not sure", True),
        (LABELS, "Nothing. YES!", "Yes", True),  # no part of a word, in any case
        (LABELS, "yes", "no", False),
        (LABELS, "maybe", "no", False),
        (own("number"), "first 3, then 1,200.", "1200", True),
        (own("number"), "It is \u22125.", "-5", True),
        (own("number"), "It is .5", "0.5", True),
        (own("number"), "It is 1e5", "100000", True),
        (own("number"), "from 5-10", "10", True),
        (own("labels", labels=["1", "2"]), "-1", "1", False),
        (own("labels", labels=["1", "2"]), "1.5", "1", False),
        (own("labels", labels=["C", "Java"]), "C# or Java", "Java", True),
        (own("labels", labels=["toxic", "safe"]), "non-toxic, safe", "safe", True),
        (
            own("labels", labels=["\u6b63\u9762", "\u8d1f\u9762"]),
            "\u7b54\u6848\u662f\u6b63\u9762\u3002",
            "\u6b63\u9762",
            True,
        ),
        (own("labels", labels=["cafe\u0301", "tea"]), "A caf\u00e9!", "caf\u00e9", True),
        (own("regex", pattern=r"#### (-?\d+)?"), "#### 4 ####", "4", True),
        (own("regex", pattern=r"(\d+)|(none)"), "none", "none", True),
        (own("number"), "none", "3", False),
        (own("exact"), " Oslo \n", "Oslo", True),
        (own("exact"), "oslo", "Oslo", False),
        (own("exact"), "It is Oslo", "Oslo", False),
        (own("contains"), "It is oslo.", "Oslo", True),
        (own("contains"), "It is Rome.", "Oslo", False),
        (own("contains"), " ", "Oslo", False),
        (STEPS, "2 + 2 #### 3\n#### 4", "4", True),
        (STEPS, "so 4", "4", False),
        (STEPS, "#### 4.0", "4", True),  # equal numbers
        (own("regex", pattern="[A-Z]{2}"), "from NO to SE", "SE", True),
    ],
)
def test_a_task_of_ones_own_is_read_by_its_rule(
    task: Task, text: str, expected: str, right: bool
) -> None:
    assert is_correct(task, extract(task, text), expected) == right


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        (LABELS, Row("?", "", answer="yes"), "Yes"),
        (LABELS, Row("?", "It is not sure."), "not sure"),
        (own("number"), Row("?", "", answer="7"), "7"),
        (own("number"), Row("?", "So 3 + 4 = 7."), "7."),
        (own("exact"), Row("?", " Oslo "), "Oslo"),
        (STEPS, Row("?", "3 + 4 = 7\n#### 7"), "7"),
        (STEPS, Row("?", "", answer="7"), "7"),
        (TASKS["boolq"], Row("?", "", answer="true"), "true"),
    ],
)
def test_the_expected_answer_is_that_of_the_row_or_of_its_output(
    task: Task, row: Row, expected: str
) -> None:
    assert expected_answer(task, row) == expected


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (LABELS, Row("?", "", answer="perhaps", place="t.json, row 2")),
        (LABELS, Row("?", "Yes or no", place="t.json, row 2")),
        (own("number"), Row("?", "", answer="many", place="t.json, row 2")),
        (own("number"), Row("?", "", answer="1/2", place="t.json, row 2")),
        (own("number"), Row("?", "", answer="1 000", place="t.json, row 2")),
        (own("exact"), Row("?", "", place="t.json, row 2")),
        (TASKS["boolq"], Row("?", "the answer is true", place="t.json, row 2")),
        (TASKS["boolq"], Row("?", "", answer="yes", place="t.json, row 2")),
        (TASKS["gsm8k"], Row("?", "", answer="twelve", place="t.json, row 2")),
        (TASKS["AQuA"], Row("?", "", answer="F", place="t.json, row 2")),
    ],
)
def test_what_cannot_be_an_answer_is_named_with_its_row(task: Task, row: Row) -> None:
    with pytest.raises(UserError, match=r"t\.json, row 2, field 'answer': must be"):
        expected_answer(task, row)


def test_tasks_of_ones_own_are_read_as_they_are_in_lower_case_too() -> None:
    assert extract(own("exact"), "Paris", lower_case=True) == "Paris"
    assert extract(own("regex", pattern="Answer: (.)"), "Answer: B", lower_case=True) == "B"
