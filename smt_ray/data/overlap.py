"""Test questions that are also in the training rows, which makes an accuracy less meaningful."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

from smt_ray.data.rows import USER, Row
from smt_ray.documents.overlaps import Duplicates, FoundQuestion

_WORD = re.compile(r"\w+")


def find_overlaps(
    training: Sequence[Row],
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
    asked: dict[str, list[Row]] = {}
    for row in training:
        for key in question_keys(row):
            asked.setdefault(key, []).append(row)
    found = []
    for index, row in enumerate(test):
        same = [known for key in question_keys(row)[-1:] for known in asked.get(key, ())]
        if same:
            says_same = any(same_answer(_stated(known), row.answer) for known in same)
            found.append(
                FoundQuestion(index=index, position=same[0].position, same_answer=says_same)
            )
    return found


def _stated(row: Row) -> str:
    """The answer of a row; a conversation has answered several questions."""
    return row.answer or ("" if row.messages else row.output)


def find_duplicates(
    name: str, rows: Sequence[Row], other: str, others: Sequence[Row]
) -> Duplicates:
    """The rows of a set that are also in another set, or earlier in the same set.

    Args:
        name: The name of the set.
        rows: Its rows.
        other: The name of the other set; the same name for the set itself.
        others: Its rows.
    """
    is_same = name == other
    digests: set[bytes] = set() if is_same else {row.meaning() for row in others}
    questions: set[str] = set() if is_same else {k for row in others for k in question_keys(row)}
    num_identical, asked = 0, []
    for row in rows:
        digest, keys = row.meaning(), question_keys(row)
        num_identical += digest in digests
        if questions & set(keys):
            asked.append(row)
        if is_same:
            digests.add(digest)
            questions.update(keys)
    return Duplicates(
        rows=name,
        within=other,
        num_rows=len(rows),
        num_identical=num_identical,
        num_same_question=len(asked),
        first=asked[0].place if asked else None,
    )


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
