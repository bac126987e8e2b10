"""Test questions that stand in the training rows: what makes an accuracy say less than it seems."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smt_ray.data.rows import USER, Row

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """A test row whose question a training row asks too.

    Attributes:
        index: Of the test row, from 0.
        position: Of the first such training row, over all sources, from 0.
        same_answer: Whether a training row gives the test row's answer to it.
    """

    index: int
    position: int
    same_answer: bool


def find_overlaps(
    training: Sequence[Row],
    test: Sequence[Row],
    same_answer: Callable[[str, str], bool] = operator.eq,
) -> list[Overlap]:
    """The test rows whose question is a training row's, in their order.

    A question is instruction and input, or what a user says in one turn or in all; case, spaces and
    punctuation make no difference. A conversation gives no short answer to compare.

    Args:
        training: The rows that are trained on.
        test: The rows of a task.
        same_answer: Whether a training row's answer is the expected one.
    """
    asked: dict[str, list[Row]] = {}
    for row in training:
        for key in question_keys(row):
            asked.setdefault(key, []).append(row)
    return [
        Overlap(
            index, same[0].position, any(same_answer(known.answer, row.answer) for known in same)
        )
        for index, row in enumerate(test)
        if (same := asked.get(question_key(row)))
    ]


def question_keys(row: Row) -> list[str]:
    """The key of each question that a row asks, once.

    A conversation's are its user's: a system prompt or a tool's output is no part of what a test
    row asks. Each turn may be one, or all of them together.
    """
    if not row.messages:
        return [question_key(row)]
    turns = [message.content for message in row.messages if message.role == USER]
    return list(dict.fromkeys(map(_words, [*turns, "\n".join(turns)])))


def question_key(row: Row) -> str:
    """What two rows that ask the same have in common: the words of instruction and input."""
    return _words(f"{row.instruction}\n{row.input}")


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
