"""The tasks that can be evaluated, as data: one line for each task.

The fourteen published tasks follow the protocol of LLM-Adapters (32 new tokens for commonsense, 256
for math). The two built-in tasks belong to the embedded model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from smt_ray.builtin.almanac import RELATIONS
from smt_ray.errors import UserError

Suite = Literal["commonsense", "math", "builtin"]
AnswerKind = Literal["label", "number", "letter"]
CandidateRule = Literal["labels", "answers"]


@dataclass(frozen=True, slots=True)
class Task:
    """How one task is asked and read.

    Attributes:
        name: The name of its data set, such as ``boolq``.
        suite: The group that it is reported with.
        answer: The rule to read an answer from a text: the first of ``labels``, the last number,
            or, for AQuA, the first letter.
        max_new_tokens: The largest number of generated tokens.
        labels: The labels of a ``label`` or ``letter`` task.
        candidates: The answers that the likelihood protocol chooses from: ``labels`` (those that
            the row offers) or ``answers`` (every distinct answer of the evaluated rows); None for
            answers in prose, which have no closed set.
    """

    name: str
    suite: Suite
    answer: AnswerKind
    max_new_tokens: int
    labels: tuple[str, ...] = ()
    candidates: CandidateRule | None = None


def _commonsense(name: str, *labels: str) -> Task:
    return Task(name, "commonsense", "label", 32, labels, "labels")


def _math(name: str) -> Task:
    return Task(name, "math", "number", 256)


def _numbered(stem: str, num: int) -> tuple[str, ...]:
    return tuple(f"{stem}{i}" for i in range(1, num + 1))


# Longer values come first, because the first alternative that matches is read.
_TINY_VALUES = tuple(
    sorted(
        {value for relation in RELATIONS for value in relation.members}, key=lambda v: (-len(v), v)
    )
)

_ALL = (
    _commonsense("boolq", "true", "false"),
    _commonsense("piqa", *_numbered("solution", 2)),
    _commonsense("social_i_qa", *_numbered("answer", 5)),
    _commonsense("hellaswag", *_numbered("ending", 4)),
    _commonsense("winogrande", *_numbered("option", 2)),
    _commonsense("ARC-Easy", *_numbered("answer", 5)),
    _commonsense("ARC-Challenge", *_numbered("answer", 5)),
    _commonsense("openbookqa", *_numbered("answer", 5)),
    _math("MultiArith"),
    _math("gsm8k"),
    _math("AddSub"),
    Task("AQuA", "math", "letter", 256, tuple("ABCDE")),
    _math("SingleEq"),
    _math("SVAMP"),
    Task("tiny_commonsense", "builtin", "label", 16, _TINY_VALUES, "labels"),
    Task("tiny_arithmetic", "builtin", "number", 16, candidates="answers"),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""Every task by its name."""

SUITES: dict[str, tuple[str, ...]] = {
    suite: tuple(task.name for task in _ALL if task.suite == suite)
    for suite in ("commonsense", "math", "builtin")
}
"""The names of the tasks of each suite, in the order that tables show them."""


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: There is no such task; the message lists all tasks.
    """
    if name not in TASKS:
        raise UserError("evaluation.tasks", f"must be one of {', '.join(TASKS)}", got=name)
    return TASKS[name]


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks that the names stand for; the name of a suite stands for all of its tasks.

    Returns:
        Each task once, in the order of the names.

    Raises:
        UserError: A name is neither that of a task nor that of a suite.
    """
    expanded: dict[str, Task] = {}
    for name in names:
        for member in SUITES.get(name, (name,)):
            if member not in TASKS:
                known = ", ".join([*SUITES, *TASKS])
                raise UserError(
                    "evaluation.tasks", f"must be a suite or a task, one of {known}", got=name
                )
            expanded[member] = TASKS[member]
    return list(expanded.values())
