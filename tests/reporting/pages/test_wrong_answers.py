"""Claims about the choice of wrong answers and the part of them that is shown."""

from __future__ import annotations

import pytest

from smt_ray.documents.prediction import Prediction
from smt_ray.reporting.pages.wrong_answers import (
    common_frame,
    fair_shares,
    shorten,
    spread,
    wrong_answers,
)


def prediction(index: int, correct: bool) -> Prediction:
    return Prediction(
        index=index,
        prompt=f"Do this.\n{index}?\nAnswer:",
        output=f"it is {index}",
        extracted=None if index == 4 else str(index),
        expected="9",
        correct=correct,
    )


@pytest.mark.parametrize(
    ("available", "most", "expected"),
    [
        ([3, 100, 100], 20, [3, 9, 8]),
        ([0, 5], 20, [0, 5]),
        ([100] * 30, 20, [1] * 20 + [0] * 10),
        ([], 20, []),
    ],
)
def test_shares_are_even_and_add_up_to_the_maximum(
    available: list[int], most: int, expected: list[int]
) -> None:
    assert fair_shares(available, most) == expected
    assert sum(expected) == min(most, sum(available))


def test_items_are_spread_from_the_first_one_without_repetition() -> None:
    assert spread(range(100), 4) == [0, 25, 50, 75]
    assert spread(range(3), 3) == [0, 1, 2]
    assert spread(range(3), 0) == []


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["a\nb\nx 1\nc", "a\nb\nx 2\nc"], ("a\nb\n", "\nc")),
        (["same\nend", "same\nend"], ("", "")),
        (["one alone\n"], ("", "")),
        (["no lines 1", "no lines 2"], ("", "")),
        (["a\nb", "a\nc\nb"], ("a\n", "")),
    ],
)
def test_the_frame_is_the_whole_lines_that_all_prompts_share(
    prompts: list[str], expected: tuple[str, str]
) -> None:
    opening, ending = common_frame(prompts)
    assert (opening, ending) == expected
    for prompt in prompts:
        assert len(opening) + len(ending) <= len(prompt)
        assert prompt.startswith(opening)
        assert prompt.endswith(ending)


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    text = "a" * 5000 + "b" * 5000
    short = shorten(text, 100)
    assert short.startswith("a" * 50 + "\n")
    assert short.endswith("\n" + "b" * 50)
    assert "9,900 characters" in short
    assert shorten("short") == "short"


def test_only_wrong_answers_are_shown_beside_those_of_the_base_model() -> None:
    tuned = {"sums": [prediction(i, i % 2 == 1) for i in range(6)]}
    base = {"sums": [prediction(i, True) for i in range(6)]}
    found = wrong_answers(tuned, base)
    assert found is not None
    assert (found.num_answers, found.num_wrong, found.num_unread, found.num_shown) == (6, 3, 1, 3)
    (task,) = found.tasks
    assert (task.opening, task.ending) == ("Do this.\n", "\nAnswer:")
    assert [(a.number, a.question, a.prediction.extracted) for a in task.answers] == [
        (1, "0?", "0"), (3, "2?", "2"), (5, "4?", None),
    ]  # fmt: skip
    assert all(answer.base and answer.base.correct for answer in task.answers)


def test_nothing_is_shown_without_an_evaluation() -> None:
    assert wrong_answers({}) is None
    assert wrong_answers({"sums": []}) is None
