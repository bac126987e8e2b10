"""Reading an answer out of a text, and comparing it: pure functions, the published rules.

The rules are LLM-Adapters', so that figures can be laid beside the published ones, faults included:
AQuA's takes the first of the letters A to E wherever it stands, also in "A: Let the...", and
disagrees with the stated "The answer is (C)" in about one of five reference outputs.
:func:`stated_letter` reads what is stated; both are reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import AnswerKind, Task

NUMBER_TOLERANCE = 0.001
"""Largest difference between a number read and the expected one that still counts as equal."""

_NUMBER = re.compile(r"-?\d+\.?\d*", re.ASCII)
_STATED_LETTER = re.compile(r"(?i:\banswer\s*(?:is|:)?\s*:?\s*(?:option\s*)?)\(?([A-E])\b")
_LETTER = re.compile(r"\b[A-E]\b")
_NEXT_SECTION = "### Response:"


def extract(task: Task, text: str, *, lower_case: bool = False) -> str | None:
    """The answer that the text gives by the task's rule, or None where it gives none.

    Args:
        task: Says which rule.
        text: What the model wrote after the prompt. A model that goes on to write a further
            ``### Response:`` of its own is read up to there, as published.
        lower_case: Whether what stands up to there is read in lower case. AQuA's letters are upper
            case and always read as they stand: in lower case there would be none.
    """
    text = _first_response(text)
    if lower_case and task.answer != "letter":
        text = text.lower()
    return _RULES[task.answer](task, text)


def stated_letter(task: Task, text: str) -> str | None:
    """The letter that a text states as its answer: the corrected rule of AQuA.

    The last one after "answer is" or "answer:"; in a text that says neither, its only letter, and
    none where several stand in it.

    Args:
        task: A task whose answers are letters.
        text: See :func:`extract`.
    """
    assert task.answer == "letter"
    text = _first_response(text)
    if stated := _STATED_LETTER.findall(text):
        return str(stated[-1])
    letters = set(_LETTER.findall(text))
    return letters.pop() if len(letters) == 1 else None


def is_correct(task: Task, extracted: str | None, expected: str) -> bool:
    """Whether an extracted answer is the expected one: equal as text, or as numbers to 0.001.

    Raises:
        UserError: The task's answers are numbers and the expected one is none.
    """
    if task.answer != "number":
        return extracted == expected
    gold = parse_number(expected)
    if gold is None:
        raise UserError(f"{task.name}, answer", "must be a number", got=expected)
    got = None if extracted is None else parse_number(extracted)
    return got is not None and abs(got - gold) <= NUMBER_TOLERANCE


def parse_number(text: str) -> float | None:
    """The finite number that the whole text states ("1,200", "300.0", "-4."), or None."""
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _first_response(text: str) -> str:
    # The heading is recognised as the prompt writes it, so before any change of case.
    return text.split(_NEXT_SECTION, 1)[0]


def _first_label(task: Task, text: str) -> str | None:
    match = re.search("|".join(map(re.escape, task.labels)), text)
    return match.group() if match else None


def _last_number(task: Task, text: str) -> str | None:
    numbers = _NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else None


_RULES: dict[AnswerKind, Callable[[Task, str], str | None]] = {
    "label": _first_label,
    "number": _last_number,
    # A kind of its own although the published rule is the labels' one: see stated_letter.
    "letter": _first_label,
}
