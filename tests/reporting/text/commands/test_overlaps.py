"""Claims about the table of test questions that are in the training rows."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

from smt_ray.documents.overlaps import OverlapReport
from smt_ray.reporting.text.commands.overlaps import print_overlaps

FOUND = [{"index": 3, "position": 0, "same_answer": True}]


def printed(**tasks: dict[str, Any]) -> str:
    report = OverlapReport.model_validate({"num_training_rows": 1200, "tasks": tasks})
    with redirect_stdout(io.StringIO()) as file:
        print_overlaps(report)
    return file.getvalue()


def test_a_row_has_the_counts_of_a_task_and_its_first_question() -> None:
    text = printed(
        boolq={"num_rows": 8, "num_found": 1, "num_same_answer": 1, "found": FOUND},
        piqa={"num_rows": 9, "num_found": 0, "num_same_answer": 0},
    )
    assert "also in the 1,200 training rows" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["boolq", "8", "1", "12.5%", "1", "3"] in lines
    assert ["piqa", "9", "0", "0.0%", "0", "-"] in lines


def test_questions_in_the_training_rows_have_a_note_about_their_accuracy() -> None:
    one = {"num_rows": 8, "num_found": 1, "num_same_answer": 1, "found": FOUND}
    assert "accuracy on these 1 questions" in printed(boolq=one)
    assert "accuracy" not in printed(boolq={"num_rows": 8, "num_found": 0, "num_same_answer": 0})


def test_duplicates_are_counted_within_and_between_sets() -> None:
    twice = {"rows": "training", "within": "training", "num_rows": 8, "num_identical": 1,
             "num_same_question": 3, "first": "a.json, row 4"}  # fmt: skip
    held = {**twice, "rows": "validation", "num_identical": 0, "num_same_question": 0}
    report = OverlapReport.model_validate(
        {"num_training_rows": 8, "duplicates": [twice, {**held, "first": None}]}
    )
    with redirect_stdout(io.StringIO()) as file:
        print_overlaps(report)
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert "training the same 8 1 3 a.json, row 4" in lines
    assert "validation training 8 0 0 -" in lines
    assert "Test questions" not in file.getvalue()
