"""Test questions that are also in the training rows, which makes an accuracy less meaningful."""

from __future__ import annotations

import hashlib
import operator
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smt_ray.data.rows import USER, Row
from smt_ray.data.table import Fingerprints, Places, Rows, first_places
from smt_ray.documents.overlaps import Duplicates, FoundQuestion

_BYTES = 16  # of a fingerprint
_WORD = re.compile(r"\w+")


def find_overlaps(
    training: Iterable[Row],
    test: Sequence[Row],
    same_answer: Callable[[str, str], bool] = operator.eq,
) -> list[FoundQuestion]:
    """The test rows whose question is also in the training rows, in their order.

    A question is the instruction with the input. In a conversation it is a turn of the user, or all
    of these turns together. Case, spaces and punctuation are ignored. Conversations have no short
    answer to compare.

    Args:
        training: The rows that are trained on.
        test: The rows of a task.
        same_answer: A function that compares a training row's answer with the expected one.
    """
    asked: dict[str, list[Row]] = {question_keys(row)[-1]: [] for row in test}
    for row in training:
        for key in question_keys(row):
            if key in asked:
                asked[key].append(row)
    found = []
    for index, row in enumerate(test):
        same = asked[question_keys(row)[-1]]
        if same:
            says_same = any(same_answer(_stated(known), row.answer) for known in same)
            found.append(
                FoundQuestion(index=index, position=same[0].position, same_answer=says_same)
            )
    return found


def _stated(row: Row) -> str:
    """The answer of a row; a conversation has answered several questions."""
    return row.answer or ("" if row.messages else row.output)


@dataclass(frozen=True)
class RowSet:
    """A set of rows, and the fingerprints that tell which of them are alike.

    Attributes:
        name: The name of the set.
        rows: Its rows.
    """

    name: str
    rows: Rows

    @cached_property
    def meanings(self) -> Fingerprints:
        """The fingerprint of what each row says."""
        return self.rows.meanings()

    @cached_property
    def questions(self) -> tuple[Fingerprints, Places]:
        """The fingerprints of all questions, and the row of each."""
        prints, owners = bytearray(), array("i")
        for number, row in enumerate(self.rows):
            for key in question_keys(row):
                prints += hashlib.blake2b(key.encode(), digest_size=_BYTES).digest()
                owners.append(number)
        return np.frombuffer(prints, np.uint8).reshape(-1, _BYTES), np.array(owners, np.int32)


def find_duplicates(one: RowSet, other: RowSet) -> Duplicates:
    """The rows of a set that are also in another set, or earlier in the same set.

    Args:
        one: The set.
        other: The other set; the same one for the set itself.
    """
    numbers = np.arange(len(one.rows), dtype=np.int32)
    is_identical = _first_owner(one, other, one.meanings, other.meanings, numbers) < numbers
    questions, owners = one.questions
    first = _first_owner(one, other, questions, other.questions[0], owners)
    asked = np.unique(owners[first < owners])
    return Duplicates(
        rows=one.name,
        within=other.name,
        num_rows=len(one.rows),
        num_identical=int(is_identical.sum()),
        num_same_question=len(asked),
        first=one.rows[int(asked[0])].place if len(asked) else None,
    )


def _first_owner(
    one: RowSet, other: RowSet, prints: Fingerprints, others: Fingerprints, owners: Places
) -> Places:
    """The first row with each fingerprint; -1 for one that another set has."""
    if one is other:
        return owners[first_places(prints)]
    first = first_places(np.concatenate([others, prints]))[len(others) :] - len(others)
    return np.where(first < 0, -1, owners[np.maximum(first, 0)])


def question_keys(row: Row) -> list[str]:
    """The distinct keys of a row's questions.

    A conversation has a key for each turn of the user, and one for all of these turns together.
    System prompts and the outputs of tools are no questions. A plain text is its own question.
    """
    if not row.messages:
        return [question_key(row)]
    turns = [message.content for message in row.messages if message.role == USER]
    return list(dict.fromkeys(map(_words, [*turns, "\n".join(turns)])))


def question_key(row: Row) -> str:
    """The key of a question, which is the same for rows that ask the same: its words."""
    return _words(f"{row.instruction or row.output}\n{row.input}")


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
