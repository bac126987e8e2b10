"""Some wrong answers of each task to read, without the text that all prompts have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from smt_ray.documents.prediction import Prediction

_MOST_CHARACTERS = 2000

Predictions = Mapping[str, Sequence[Prediction]]
"""Task -> its predictions."""

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A wrong answer.

    Attributes:
        number: The number of the row in its task, from 1.
        question: The part of the prompt that differs between rows.
        output: The generated text, shortened.
        prediction: The prediction of the tuned model.
        base: The prediction of the base model; None if there is none.
    """

    number: int
    question: str
    output: str
    prediction: Prediction
    base: Prediction | None


@dataclass(frozen=True)
class TaskAnswers:
    """The wrong answers of one task.

    Attributes:
        opening: The text that all prompts begin with.
        ending: The text that all prompts end with.
    """

    name: str
    opening: str
    ending: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class WrongAnswers:
    """The wrong answers of all tasks.

    Attributes:
        num_unread: The number of wrong answers of which no answer could be read.
        tasks: The tasks with the answers that are shown.
    """

    num_answers: int
    num_wrong: int
    num_unread: int
    tasks: Sequence[TaskAnswers]

    @property
    def num_shown(self) -> int:
        """The number of answers that are shown."""
        return sum(len(task.answers) for task in self.tasks)


def wrong_answers(
    tuned: Predictions, base: Predictions | None = None, most: int = 20
) -> WrongAnswers | None:
    """About equally many wrong answers of each task, spread evenly over its rows.

    Those of the base model are shown beside them. None if nothing was evaluated.
    """
    if not any(tuned.values()):
        return None
    wrong = {task: [p for p in found if not p.correct] for task, found in tuned.items()}
    shares = fair_shares([len(found) for found in wrong.values()], most)
    return WrongAnswers(
        num_answers=sum(map(len, tuned.values())),
        num_wrong=sum(map(len, wrong.values())),
        num_unread=sum(p.extracted is None for found in wrong.values() for p in found),
        tasks=[
            _task(task, tuned[task], spread(found, share), (base or {}).get(task, ()))
            for (task, found), share in zip(wrong.items(), shares, strict=True)
            if share
        ],
    )


def fair_shares(available: Sequence[int], most: int) -> list[int]:
    """How many items to take of each kind: as equal as possible, and at most ``most`` in total.

    >>> fair_shares([3, 100, 100], 20)
    [3, 9, 8]
    """
    shares = [0] * len(available)
    for _ in range(min(most, sum(available))):
        open_ = [i for i, number in enumerate(available) if shares[i] < number]
        shares[min(open_, key=shares.__getitem__)] += 1
    return shares


def spread(items: Sequence[T], number: int) -> list[T]:
    """``number`` of the items, evenly spaced.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [items[i * len(items) // number] for i in range(number)]


def common_frame(prompts: Sequence[str]) -> tuple[str, str]:
    r"""The whole lines that all prompts begin with, and the whole lines that they end with.

    >>> common_frame(["Answer.\nQ: 1 + 1?\nA:", "Answer.\nQ: 2 + 2?\nA:"])
    ('Answer.\n', '\nA:')
    """
    if len(set(prompts)) < 2:
        return "", ""
    opening = _common_start(prompts)
    opening = opening[: opening.rfind("\n") + 1]
    rests = [prompt[len(opening) :][::-1] for prompt in prompts]
    ending = _common_start(rests)[::-1]
    return opening, ending[ending.find("\n") :] if "\n" in ending else ""


def _common_start(texts: Sequence[str]) -> str:
    # All texts between the first and the last one in sorted order share their common start.
    first, last = min(texts), max(texts)
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differ, len(first))]


def shorten(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The text; the middle of a long text is left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"


def _task(
    task: str, all_: Sequence[Prediction], shown: Sequence[Prediction], base: Sequence[Prediction]
) -> TaskAnswers:
    opening, ending = common_frame([p.prompt for p in all_])
    of_base = {p.index: p for p in base}
    answers = [
        Answer(
            number=p.index + 1,
            question=shorten(p.prompt[len(opening) : len(p.prompt) - len(ending)]),
            output=shorten(p.output),
            prediction=p,
            base=of_base.get(p.index),
        )
        for p in shown
    ]
    return TaskAnswers(task, opening, ending, answers)
