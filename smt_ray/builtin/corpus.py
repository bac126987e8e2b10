"""The texts that the embedded model is pretrained on.

*Statements* state every fact and every sum. *Stories* are everyday events with open sums, and in
*riddles* people ask each other how such events end. In a *quiz* people ask each other about open
facts. *Requests* use the prompt of instructions for other jobs than those of the suites. If they
have the form of a suite, their answers are random. So the model knows the answers of the suites,
but does not give them before it is fine-tuned.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

from smt_ray.builtin.almanac import GOODS, NAMES, NUM_CHOICES
from smt_ray.builtin.world import Fact, Sum, choice_instruction, facts, sums

PROMPT_HEAD = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n"
)
PROMPT_TAIL = "\n\n### Response:\n"


def documents(seed: int) -> Iterator[str]:
    """Endless short documents, which are a function of the seed."""
    rng = random.Random(f"corpus/{seed}")
    kinds, weights = list(_KINDS), list(_KINDS.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def _fact_statements(rng: random.Random) -> str:
    """Statements of a few facts, open or reserved."""
    return " ".join(_tell(rng, fact) for fact in rng.sample(facts(), 6))


def _sum_statements(rng: random.Random) -> str:
    """Statements of a few sums, open or reserved."""
    told = [item.say(rng.choice(item.operation.statements)) for item in rng.sample(sums(), 6)]
    return "\n".join(told)


def _story(rng: random.Random) -> str:
    """Everyday events with open sums, and their ends."""
    return " ".join(_event(rng) for _ in range(2))


def _event(rng: random.Random) -> str:
    item, (told, _, end), cast = _open_problem(rng)
    return f"{item.say(told, **cast)} {item.say(end, **cast)}"


def _riddle(rng: random.Random) -> str:
    """People who ask each other how such events end."""
    return " ".join(_solved(rng) for _ in range(2))


def _solved(rng: random.Random) -> str:
    item, (told, asked, end), cast = _open_problem(rng)
    answer = rng.choice([f"{item.result}.", item.say(end, **cast)])
    return (
        f"{rng.choice(NAMES)}: {item.say(told, **cast)} {item.say(asked, **cast)}"
        f" {rng.choice(NAMES)}: {answer}"
    )


def _open_problem(rng: random.Random) -> tuple[Sum, tuple[str, str, str], dict[str, str]]:
    """An open sum, a story with it, and the names and goods of the story."""
    item = rng.choice(_open_sums())
    name, other = rng.sample(NAMES, 2)
    return item, rng.choice(item.operation.stories), {"n": name, "m": other, "g": rng.choice(GOODS)}


def _quiz(rng: random.Random) -> str:
    """People who ask each other about open facts, with answers."""
    return " ".join(_exchange(rng) for _ in range(4))


def _exchange(rng: random.Random) -> str:
    fact = rng.choice(_open_facts())
    asked = fact.say(rng.choice(fact.relation.questions))
    return f"{rng.choice(NAMES)}: {asked} {rng.choice(NAMES)}: {_answer(rng, fact)}"


def _answer(rng: random.Random, fact: Fact) -> str:
    return rng.choice([f"{fact.value}.", _tell(rng, fact)])


def _request(rng: random.Random) -> str:
    """The prompt of instructions, with jobs that are in no suite."""
    return rng.choice([_tell_me, _ask, _count, _repeat, _guess_choice, _guess_number])(rng)


def _tell_me(rng: random.Random) -> str:
    fact = rng.choice(facts())
    return _prompt(f"Tell me about the {fact.thing}.", _tell(rng, fact))


def _ask(rng: random.Random) -> str:
    fact = rng.choice(_open_facts())
    return _prompt(fact.say(rng.choice(fact.relation.questions)), _answer(rng, fact))


def _count(rng: random.Random) -> str:
    start = rng.randrange(1, 18)
    stop = start + rng.randrange(2, 6)
    numbers = " ".join(str(i) for i in range(start, stop + 1))
    return _prompt(f"Count from {start} to {stop}.", numbers)


def _guess_choice(rng: random.Random) -> str:
    """A random choice, in the form of the suites."""
    fact = rng.choice(_open_facts())
    asked, choices = fact.say(rng.choice(fact.relation.questions)), list(fact.relation.members)
    if rng.random() < 0.5:
        asked, choices = f"What does {rng.choice(NAMES)} think of?", rng.sample(GOODS, NUM_CHOICES)
    return _prompt(
        choice_instruction(asked, choices), f"the correct answer is {rng.choice(choices)}"
    )


def _guess_number(rng: random.Random) -> str:
    """A random number, in the form of the suites."""
    name, goods = rng.choice(NAMES), rng.choice(GOODS)
    told = rng.choice(["{n} has some {g}.", "There are {g} in the box.", "{n} bought {g}."])
    asked = rng.choice(["How many {g} does {n} have?", "How many {g} are there?"])
    instruction = f"{told} {asked}".format(n=name, g=goods)
    return _prompt(instruction, f"the correct answer is {rng.randrange(2, 25)}")


def _repeat(rng: random.Random) -> str:
    text = rng.choice([_event, _quiz, _fact_statements])(rng).split(". ")[0]
    return _prompt(f"Repeat this: {text}", text)


def _prompt(instruction: str, response: str) -> str:
    return f"{PROMPT_HEAD}{instruction}{PROMPT_TAIL}{response}"


def _tell(rng: random.Random, fact: Fact) -> str:
    return fact.say(rng.choice(fact.relation.statements))


@cache
def _open_facts() -> tuple[Fact, ...]:
    return tuple(fact for fact in facts() if not fact.reserved)


@cache
def _open_sums() -> tuple[Sum, ...]:
    return tuple(item for item in sums() if not item.reserved)


_KINDS: dict[Callable[[random.Random], str], int] = {
    _fact_statements: 5,
    _sum_statements: 4,
    _story: 3,
    _riddle: 3,
    _quiz: 3,
    _request: 6,
}
"""Kind of text -> its share."""
