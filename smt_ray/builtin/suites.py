"""Two suites of questions about the world, as rows in LLM-Adapters' format.

``tiny_commonsense`` asks for the value of a thing, with the four values of the relation as choices.
Each of these is right equally often, so guessing has an accuracy of 1/4. ``tiny_arithmetic`` tells
a short story and asks for a number. Training rows ask about open facts and sums, test rows about
reserved ones; see :mod:`smt_ray.builtin.world`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from smt_ray.builtin.almanac import GOODS, NAMES, NUM_CHOICES
from smt_ray.builtin.world import Fact, Sum, choice_instruction, facts, sums
from smt_ray.errors import UserError

TASKS = ("tiny_commonsense", "tiny_arithmetic")
SPLITS = ("train", "test")
ANSWER_WORDS = "the correct answer is "
_NUM_ROWS = {"train": 1600, "test": 240}

Row = dict[str, str]
Item = TypeVar("Item")


def generate_rows(task: str, split: str) -> list[Row]:
    """The rows of a split of a task, which are always the same.

    Args:
        task: ``tiny_commonsense`` or ``tiny_arithmetic``.
        split: ``train`` (open facts and sums) or ``test`` (reserved ones).

    Returns:
        Rows with the fields ``instruction``, ``input`` (empty), ``output`` and ``answer``.

    Raises:
        UserError: The task or the split does not exist.
    """
    if task not in TASKS:
        raise UserError("task", f"must be one of {', '.join(TASKS)}", got=task)
    if split not in SPLITS:
        raise UserError("split", f"must be one of {', '.join(SPLITS)}", got=split)
    rng = random.Random(f"{task}/{split}")
    ask = _commonsense_rows if task == "tiny_commonsense" else _arithmetic_rows
    return ask(rng, split == "test", _NUM_ROWS[split])


def _commonsense_rows(rng: random.Random, reserved: bool, num_rows: int) -> list[Row]:
    """Rows with all questions about all facts; each choice is right equally often."""
    questions: list[list[tuple[Fact, str]]] = [[] for _ in range(NUM_CHOICES)]
    for fact in facts():
        if fact.reserved == reserved:
            of_label = questions[list(fact.relation.members).index(fact.value)]
            of_label += [(fact, form) for form in fact.relation.questions]
    asked = [q for each in questions for q in _in_turn(rng, each, num_rows // NUM_CHOICES)]
    rng.shuffle(asked)
    return [_choice_row(fact, form) for fact, form in asked]


def _choice_row(fact: Fact, form: str) -> Row:
    instruction = choice_instruction(fact.say(form), list(fact.relation.members))
    return answer_row(instruction, fact.value)


def _arithmetic_rows(rng: random.Random, reserved: bool, num_rows: int) -> list[Row]:
    """Rows with all stories about all sums, each time with other names and goods."""
    problems = [
        (item, story)
        for item in sums()
        if item.reserved == reserved
        for story in item.operation.stories
    ]
    return [_story_row(rng, *problem) for problem in _in_turn(rng, problems, num_rows)]


def _story_row(rng: random.Random, item: Sum, story: tuple[str, str, str]) -> Row:
    told, asked, _ = story
    name, other = rng.sample(NAMES, 2)
    cast = {"n": name, "m": other, "g": rng.choice(GOODS)}
    instruction = f"{item.say(told, **cast)} {item.say(asked, **cast)}"
    return answer_row(instruction, str(item.result))


def _in_turn(rng: random.Random, items: Sequence[Item], num: int) -> list[Item]:
    """``num`` items: all of them in random order, again and again."""
    drawn: list[Item] = []
    while len(drawn) < num:
        drawn += rng.sample(items, len(items))
    return drawn[:num]


def answer_row(instruction: str, answer: str) -> Row:
    """A row whose output says the answer in the words of LLM-Adapters."""
    return {
        "instruction": instruction,
        "input": "",
        "output": f"{ANSWER_WORDS}{answer}",
        "answer": answer,
    }
