"""The world: every fact and every sum, and which of them may be asked before the test.

A :class:`Fact` ties a thing to a value ("the whale lives in the sea"); a :class:`Sum` ties two
numbers to a third ("7 and 5 make 12"). A hash puts each, once and for all, among the *open* or the
*reserved* ones. All are told, in plain statements. Only open ones are asked, or carried out in a
story, before the test; the test asks reserved ones. The corpus and the suites both draw from this
one partition, so no template of the test meets, in training or pretraining, the operands that it
meets in the test.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from smt_ray.builtin.almanac import OPERATIONS, RELATIONS, Operation, Relation

RESERVED_ONE_IN = 4
"""One fact or sum in this many is reserved for the test."""


def _reserved(*key: object) -> bool:
    """Whether the hash of ``key`` falls to the test; the same on every machine and Python."""
    return zlib.crc32(repr(key).encode()) % RESERVED_ONE_IN == 0


@dataclass(frozen=True)
class Fact:
    """A thing and its value in a relation, such as whale, home, sea."""

    relation: Relation
    thing: str
    value: str

    @property
    def reserved(self) -> bool:
        """Whether only the test may ask it."""
        return _reserved(self.relation.name, self.thing)

    def say(self, form: str) -> str:
        """Fill a statement or a question of the relation."""
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
        """Whether only the test may put it into a story."""
        return _reserved(self.operation.name, self.a, self.b)

    def say(self, form: str, **cast: str) -> str:
        """Fill a statement or a part of a story; ``cast`` gives the names and the goods."""
        return form.format(a=self.a, b=self.b, c=self.result, **cast)


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact of the world, in a fixed order."""
    return tuple(
        Fact(relation, thing, value)
        for relation in RELATIONS
        for value, things in relation.members.items()
        for thing in things.split()
    )


@cache
def sums() -> tuple[Sum, ...]:
    """Every sum of the world, in a fixed order: operands from 2, results from 1 to 24."""
    add, subtract = OPERATIONS
    sums = []
    for a in range(2, 13):
        for b in range(2, 13):
            sums.append(Sum(add, a, b, a + b))
            sums.append(Sum(subtract, a + b, b, a))
    return tuple(sums)


def choice_instruction(question: str, choices: Sequence[str]) -> str:
    """A question with its choices as LLM-Adapters words it, the choices standing for themselves."""
    return (
        f"Please choose the correct answer to the question: {question}"
        f"\n\nAnswer format: {'/'.join(choices)}"
    )
