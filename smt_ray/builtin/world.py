"""The world: all facts and sums, and whether each is open or reserved.

A :class:`Fact` is a thing with a value ("the whale lives in the sea"), and a :class:`Sum` is two
numbers with a third ("7 and 5 make 12"). A hash makes each of them *open* or *reserved*. The corpus
states all of them. Its questions and stories, and the training rows, are about open ones only; test
rows are about reserved ones. So no question and no story of a test row occurs in training or
pretraining with the same things or numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from smt_ray.builtin.almanac import OPERATIONS, RELATIONS, Operation, Relation

RESERVED_ONE_IN = 4
"""The reserved share of facts and sums is one in this number."""


def _reserved(*key: object) -> bool:
    """Whether the hash of a key is that of a reserved fact; it is the same on every machine."""
    return zlib.crc32(repr(key).encode()) % RESERVED_ONE_IN == 0


@dataclass(frozen=True)
class Fact:
    """A thing and its value in a relation, such as whale and sea in the relation home."""

    relation: Relation
    thing: str
    value: str

    @property
    def reserved(self) -> bool:
        """Whether only test rows may ask for it."""
        return _reserved(self.relation.name, self.thing)

    def say(self, form: str) -> str:
        """A statement or a question about this fact."""
        return form.format(s=self.thing, v=self.value)


@dataclass(frozen=True)
class Sum:
    """Two operands and their result under an operation."""

    operation: Operation
    a: int
    b: int
    result: int

    @property
    def reserved(self) -> bool:
        """Whether only test rows may have it in a story."""
        return _reserved(self.operation.name, self.a, self.b)

    def say(self, form: str, **cast: str) -> str:
        """A statement or a part of a story with this sum; ``cast`` holds the names and goods."""
        return form.format(a=self.a, b=self.b, c=self.result, **cast)


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world, in a fixed order."""
    return tuple(
        Fact(relation, thing, value)
        for relation in RELATIONS
        for value, things in relation.members.items()
        for thing in things.split()
    )


@cache
def sums() -> tuple[Sum, ...]:
    """All sums of the world, in a fixed order."""
    add, subtract = OPERATIONS
    sums = []
    for a in range(2, 13):
        for b in range(2, 13):
            sums.append(Sum(add, a, b, a + b))
            sums.append(Sum(subtract, a + b, b, a))
    return tuple(sums)


def choice_instruction(question: str, choices: Sequence[str]) -> str:
    """A question with its choices, in the words of LLM-Adapters; there are no labels."""
    return (
        f"Please choose the correct answer to the question: {question}"
        f"\n\nAnswer format: {'/'.join(choices)}"
    )
