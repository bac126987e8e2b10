"""Tasks that nobody answers without training, in several sizes: new facts and a new skill.

``new_facts_<n>`` has n invented people who collect something. Training rows ask for it in four
wordings, validation rows in a fifth one, and test rows in three more. So its accuracy is the share
of the facts that the model has stored, whatever it is asked. ``new_skill_<k>`` asks for k words in
reverse order. Its validation and test rows have words in orders that no training row has, so its
accuracy is that of a rule. Guessing has an accuracy of 1/20 and of less than 1/1000.

The variants ``..._pilot`` have other people and other orders. Sizes, steps and learning rates are
chosen on them, and results are computed on the tasks themselves. Neither needs the embedded model.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

from smt_ray.builtin.almanac import GOODS, NAMES
from smt_ray.builtin.suites import Row, answer_row

NUM_FACTS = (50, 100, 200, 400, 800, 1600)
NUM_WORDS = (3, 4, 5, 6)
PILOT = "_pilot"
TASKS = (
    *(f"new_facts_{n}{variant}" for n in NUM_FACTS for variant in ("", PILOT)),
    *(f"new_skill_{k}{variant}" for k in NUM_WORDS for variant in ("", PILOT)),
)
SPLITS = ("train", "validation", "test")

_WORDINGS = {
    "train": (
        "What does {n} collect?",
        "Which things does {n} have a collection of?",
        "There is a collector whose name is {n}. What is in the collection?",
        "Say what {n} has at home.",
    ),
    "validation": ("What is {n} a collector of?",),
    "test": (
        "Which things are in the collection of {n}?",
        "What things does {n} collect?",
        "What does the collector {n} have?",
    ),
}
_NUM_ORDERS = {"train": 1600, "validation": 120, "test": 240}
# A hash puts each order of words into one of eight classes. Pilot and task share none of them.
_CLASSES = {"": {"train": (0, 1), "validation": (2,), "test": (3,)},
            PILOT: {"train": (4, 5), "validation": (6,), "test": (7,)}}  # fmt: skip
_CONSONANTS = "b d f g h j k l m n p r s t v z br dr kl tr".split()  # noqa: SIM905
_SYLLABLES = tuple(map("".join, product(_CONSONANTS, "aeiou")))


def generate(task: str, split: str) -> list[Row]:
    """The rows of a split of a task, which are always the same.

    Args:
        task: One of :data:`TASKS`.
        split: One of :data:`SPLITS`.

    Returns:
        Rows with the fields ``instruction``, ``input`` (empty), ``output`` and ``answer``.
    """
    kind, size = task.removesuffix(PILOT).rsplit("_", 1)
    variant = PILOT if task.endswith(PILOT) else ""
    if kind == "new_facts":
        return list(_fact_rows(int(size), split, variant))
    return list(_order_rows(int(size), split, variant))


def _fact_rows(num_facts: int, split: str, variant: str) -> Iterator[Row]:
    """Every fact in each wording of the split; a smaller number of facts begins with the same."""
    people = _people()[:num_facts] if not variant else _people()[-num_facts:]
    for wording in _WORDINGS[split]:
        for i, name in enumerate(people):
            yield answer_row(wording.format(n=name), GOODS[i % len(GOODS)])


@cache
def _people() -> tuple[str, ...]:
    """Invented names of two syllables, in random order."""
    names = {f"{a}{b}".capitalize() for a, b in product(_SYLLABLES, repeat=2)} - set(NAMES)
    return tuple(random.Random("people").sample(sorted(names), 2 * max(NUM_FACTS)))


def _order_rows(num_words: int, split: str, variant: str) -> Iterator[Row]:
    """Different words in different orders, all of the classes of the split."""
    rng, drawn = random.Random(f"orders/{num_words}/{split}{variant}"), set[tuple[str, ...]]()
    while len(drawn) < _NUM_ORDERS[split]:
        words = tuple(rng.sample(GOODS, num_words))
        if _class_of(words) in _CLASSES[variant][split] and words not in drawn:
            drawn.add(words)
            asked = f"Say these words in reverse order: {' '.join(words)}"
            yield answer_row(asked, " ".join(reversed(words)))


def _class_of(words: Sequence[str]) -> int:
    return zlib.crc32(" ".join(words).encode()) % 8
