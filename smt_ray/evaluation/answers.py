"""Reads an answer from a text, and compares it with the expected one.

The rules are those of LLM-Adapters with all their faults, so that results can be compared with
published ones. The rule of AQuA takes the first letter from A to E anywhere, also in
"A: Let the...". It disagrees with the stated "The answer is (C)" in about one of five reference
outputs. :func:`stated_letter` reads what is stated; both results are reported.

Tasks of the user's own have rules without such faults: labels are whole words, and a text that must
equal the answer is not searched for it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

from smt_ray.data.rows import Row
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import AnswerKind, Task

NUMBER_TOLERANCE = 0.001
"""The largest difference between the read number and the expected one that counts as equal."""

_NUMBER = re.compile(r"-?\d+\.?\d*", re.ASCII)
_STATED_LETTER = re.compile(r"(?i:\banswer\s*(?:is|:)?\s*:?\s*(?:option\s*)?)\(?([A-E])\b")
_LETTER = re.compile(r"\b[A-E]\b")
_NEXT_SECTION = "### Response:"


def extract(task: Task, text: str, *, lower_case: bool = False) -> str | None:
    """The answer in a text by the task's rule, or None if there is none.

    Args:
        task: The task, which has a rule.
        text: The generated text. If it contains another ``### Response:``, only the part before it
            is read, as in the published evaluation.
        lower_case: Whether that part is read in lower case. AQuA is always read as it is, because
            its letters are upper case, and so are tasks of the user's own.
    """
    text = _first_response(text)
    if task.suite == "own":
        return _OWN_RULES[task.answer](task, unicodedata.normalize("NFC", text))
    if lower_case and task.answer != "letter":
        text = text.lower()
    return _RULES[task.answer](task, text)


def stated_letter(task: Task, text: str) -> str | None:
    """The letter that a text states as its answer, by the corrected rule of AQuA.

    This is the last letter after "answer is" or "answer:". A text with neither is read only if it
    contains a single letter.

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
        UserError: The answers of the task are numbers, but the expected answer is not.
    """
    if extracted is None:
        return False
    if task.answer == "contains":
        return expected.casefold() in extracted.casefold()
    if task.answer == "regex":
        return extracted == expected or _are_equal(extracted, expected)
    if task.answer != "number":
        return extracted == expected
    if parse_number(expected) is None:
        raise UserError(f"{task.name}, answer", "must be a number", got=expected)
    return _are_equal(extracted, expected)


def expected_answer(task: Task, row: Row) -> str:
    """The answer that a row expects: its ``answer``, or what its output says.

    Raises:
        UserError: The row has no answer that the task's rule could read.
    """
    given = unicodedata.normalize("NFC", row.answer or row.output)
    found = _expected(task, given, is_short=row.answer not in ("", row.output))
    # A pattern reads what stands around an answer, too, so the answer alone need not match it.
    if not found or (task.answer != "regex" and not _is_readable(task, found)):
        raise UserError(
            f"{row.place}, field 'answer'", f"must be {_WANTED[task.answer]}", got=given,
            fix="mend the row, or change the answer of the task",
        )  # fmt: skip
    return found


def _is_readable(task: Task, expected: str) -> bool:
    """Whether a text that says nothing but the expected answer would be right."""
    return not (task.answer == "number" and parse_number(expected) is None) and is_correct(
        task, extract(task, expected), expected
    )


def _expected(task: Task, given: str, *, is_short: bool) -> str | None:
    """The answer that a row's text states.

    Args:
        is_short: Whether the text is the row's short answer, and not its whole output.
    """
    if task.suite != "own":
        return given
    if task.answer == "word":
        named = _named_labels(task, given)
        return _own_case(task, given.strip()) or (named.pop() if len(named) == 1 else None)
    if task.answer == "number" and is_short:
        return given.strip() if parse_number(given) is not None else None
    found = _OWN_RULES[task.answer](task, given)
    return found or (_whole_text(task, given) if task.answer == "regex" else None)


def _are_equal(one: str, other: str) -> bool:
    """Whether both are the same number, to :data:`NUMBER_TOLERANCE`."""
    first, second = parse_number(one), parse_number(other)
    if first is None or second is None:
        return False
    return abs(first - second) <= NUMBER_TOLERANCE


def parse_number(text: str) -> float | None:
    """The finite number that the whole text states ("1,200", "300.0", "-4."), or None."""
    try:
        number = float(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _first_response(text: str) -> str:
    # The heading is recognised as the prompt writes it, before any change of case.
    return text.split(_NEXT_SECTION, 1)[0]


def _first_label(task: Task, text: str) -> str | None:
    match = re.search("|".join(map(re.escape, task.labels)), text)
    return match.group() if match else None


def _last_number(task: Task, text: str) -> str | None:
    numbers = _NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else None


# A label is no part of a word or of a number. Scripts without spaces have no words to be part of.
_BEFORE, _AFTER = r"(?<![^\W_])(?<![-+.#])", r"(?![^\W_]|[+#]|[.,]\d|-\w)"
_OWN_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_SPACELESS = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def label_pattern(label: str) -> str:
    """The pattern of a label of the user's own, as a whole word."""
    bordered = rf"{_BEFORE}{re.escape(label)}{_AFTER}"
    return re.escape(label) if _SPACELESS.search(label) else bordered


def _first_word(task: Task, text: str) -> str | None:
    """The first label that a text names as a whole word, in the label's own case."""
    match = re.search("|".join(map(label_pattern, task.labels)), text, re.IGNORECASE)
    return _own_case(task, match.group()) if match else None


def _named_labels(task: Task, text: str) -> set[str]:
    """All labels that a text names; of those that overlap, the longest."""
    found = re.findall("|".join(map(label_pattern, task.labels)), text, re.IGNORECASE)
    return {own for own in (_own_case(task, label) for label in found) if own}


def _own_case(task: Task, label: str) -> str | None:
    return next((own for own in task.labels if own.casefold() == label.casefold()), None)


def _own_number(task: Task, text: str) -> str | None:
    """The last number of a text; commas between digits and another minus sign are read, too."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", text.replace("\N{MINUS SIGN}", "-"))
    numbers = _OWN_NUMBER.findall(plain)
    return numbers[-1] if numbers else None


def _whole_text(task: Task, text: str) -> str | None:
    return text.strip() or None


def _last_match(task: Task, text: str) -> str | None:
    """The first group that is not empty, or the whole, of the last match that is not empty."""
    found = []
    for match in re.finditer(task.pattern, text):
        parts = match.groups() if match.re.groups else (match.group(),)
        found += [part.strip() for part in parts if part and part.strip()][:1]
    return found[-1] if found else None


_RULES: dict[AnswerKind, Callable[[Task, str], str | None]] = {
    "label": _first_label,
    "number": _last_number,
    # The published rule is that of labels, but letters also have a corrected rule: stated_letter.
    "letter": _first_label,
    "regex": _last_match,  # of the built-in skills
}
_OWN_RULES: dict[AnswerKind, Callable[[Task, str], str | None]] = {
    "word": _first_word,
    "number": _own_number,
    "exact": _whole_text,
    "contains": _whole_text,
    "regex": _last_match,
}
_WANTED: dict[AnswerKind, str] = {
    "label": "one of the labels of the task",
    "letter": "one of the letters of the task",
    "number": "a number that can be read",
    "word": "one of the labels of the task, and no other",
    "exact": "a text",
    "contains": "a text",
    "regex": "a text that the pattern finds, or that another text can equal",
}
