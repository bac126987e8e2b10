"""The tasks that can be evaluated, as data: one line for each task.

The fourteen published tasks follow the protocol of LLM-Adapters (32 new tokens for commonsense, 256
for math). Of the built-in tasks, two belong to the embedded model, and the others, new facts and
new skills, are for any model. Tasks of the user's own come from the config.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from smt_ray.builtin.almanac import GOODS, RELATIONS
from smt_ray.builtin.learning import TASKS as LEARNING_TASKS
from smt_ray.builtin.suites import ANSWER_WORDS
from smt_ray.config.data import PromptForm
from smt_ray.config.tasks import OwnTask
from smt_ray.errors import UserError

Suite = Literal["commonsense", "math", "builtin", "learning", "own"]
AnswerKind = Literal["label", "number", "letter", "word", "exact", "contains", "regex"]
CandidateRule = Literal["labels", "answers"]


@dataclass(frozen=True, slots=True)
class Task:
    """How one task is asked and read.

    Attributes:
        name: The name of its data set, such as ``boolq``.
        suite: The group that it is reported with.
        answer: The rule to read an answer from a text: the first of ``labels``, the last number,
            or, for AQuA, the first letter. Own tasks also have ``word`` (the first of ``labels``
            that is a whole word, in any case), ``exact``, ``contains`` and ``regex``.
        max_new_tokens: The largest number of generated tokens.
        labels: The labels of a ``label``, ``letter`` or ``word`` task.
        candidates: The answers that the likelihood protocol chooses from: ``labels`` (those that
            the row offers) or ``answers`` (every distinct answer of the evaluated rows); None for
            answers in prose, which have no closed set.
        pattern: The regular expression of a ``regex`` task.
        prompt: The form of the prompt; None for the form that training uses.
    """

    name: str
    suite: Suite
    answer: AnswerKind
    max_new_tokens: int
    labels: tuple[str, ...] = ()
    candidates: CandidateRule | None = None
    pattern: str = ""
    prompt: PromptForm | None = None

    @property
    def is_builtin(self) -> bool:
        """Whether its rows are generated."""
        return self.suite in ("builtin", "learning")

    @property
    def ends_matter(self) -> bool:
        """Whether an answer may be the beginning of another one, so that its end counts."""
        pairs = permutations(self.labels, 2) if self.suite == "own" else ()
        return self.candidates == "answers" or any(b.startswith(a) for a, b in pairs)


def _commonsense(name: str, *labels: str) -> Task:
    return Task(name, "commonsense", "label", 32, labels, "labels")


def _math(name: str) -> Task:
    return Task(name, "math", "number", 256)


def _learning(name: str) -> Task:
    """A task of :mod:`smt_ray.builtin.learning`."""
    if name.startswith("new_facts"):
        return Task(name, "learning", "label", 16, tuple(GOODS), "answers")
    return Task(name, "learning", "regex", 32, pattern=rf"{ANSWER_WORDS}(.+)")


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
    *map(_learning, LEARNING_TASKS),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""Every task by its name."""

SUITES: dict[str, tuple[str, ...]] = {
    suite: tuple(task.name for task in _ALL if task.suite == suite)
    for suite in ("commonsense", "math", "builtin")
}
"""The names of the tasks of each suite, in the order that tables show them."""


def own_task(section: OwnTask) -> Task:
    """The task of a section of the config.

    Raises:
        UserError: A published task or a suite has its name.
    """
    if section.name in TASKS or section.name in SUITES:
        raise UserError(
            "evaluation.tasks", "must not give a task of your own the name of a published one",
            got=section.name, fix=f"call it my_{section.name}",
        )  # fmt: skip
    kind: AnswerKind = "word" if section.answer == "labels" else section.answer
    is_labelled = kind == "word"
    return Task(
        section.name,
        "own",
        kind,
        section.max_new_tokens or (32 if is_labelled else 256),
        # Longer labels come first, because the first alternative that matches is read.
        tuple(sorted(section.labels, key=lambda label: (-len(label), label))),
        "labels" if is_labelled else None,
        section.pattern or "",
        section.prompt,
    )


def find_tasks(entries: Sequence[str | OwnTask]) -> dict[str, Task | OwnTask]:
    """The tasks that entries of ``evaluation.tasks`` stand for, by name.

    The name of a suite stands for all of its tasks.

    Returns:
        Each task once, in the order of the entries; those of the user's own as they are.

    Raises:
        UserError: A name is neither that of a task nor that of a suite.
    """
    expanded: dict[str, Task | OwnTask] = {}
    for entry in entries:
        if isinstance(entry, OwnTask):
            expanded[entry.name] = entry
            continue
        for member in SUITES.get(entry, (entry,)):
            if member not in TASKS:
                named = [name for name, task in TASKS.items() if task.suite != "learning"]
                known = ", ".join([*SUITES, *named, "new_facts_<number>", "new_skill_<number>"])
                raise UserError(
                    "evaluation.tasks", f"must be a suite or a task, one of {known}", got=entry,
                    fix="correct the name, or give {name, rows, answer} for a task of your own",
                )  # fmt: skip
            expanded[member] = TASKS[member]
    return expanded
