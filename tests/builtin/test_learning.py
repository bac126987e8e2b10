"""Claims about the tasks that nobody answers without training."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter

import pytest

from smt_ray.builtin.almanac import GOODS, NAMES
from smt_ray.builtin.learning import NUM_FACTS, NUM_WORDS, PILOT, SPLITS, TASKS, generate
from smt_ray.data.rows import Row
from smt_ray.evaluation.answers import expected_answer, extract, is_correct
from smt_ray.evaluation.tasks import TASKS as ALL

FACTS = [task for task in TASKS if "facts" in task]
SKILLS = [task for task in TASKS if "skill" in task]


def people(task: str, split: str) -> dict[str, str]:
    """Name -> what this person collects."""
    found = {}
    for row in generate(task, split):
        words = (word.strip("?.") for word in row["instruction"].split()[1:])
        (name,) = (word for word in words if word.istitle() and word != "What")
        assert found.setdefault(name, row["answer"]) == row["answer"]
    return found


def orders(task: str, split: str) -> set[str]:
    return {row["instruction"] for row in generate(task, split)}


@pytest.mark.parametrize("task", TASKS)
def test_a_row_states_its_answer_and_the_task_reads_it(task: str) -> None:
    for split in SPLITS:
        for record in generate(task, split):
            row = Row(**record)
            assert record["output"] == f"the correct answer is {record['answer']}"
            expected = expected_answer(ALL[task], row)
            assert is_correct(ALL[task], extract(ALL[task], record["output"]), expected)
            assert not is_correct(ALL[task], extract(ALL[task], "the correct answer is"), expected)


@pytest.mark.parametrize("task", FACTS)
def test_all_facts_are_asked_in_every_split_but_never_in_the_same_words(task: str) -> None:
    number = int(task.removesuffix(PILOT).rsplit("_", 1)[1])
    splits = {split: people(task, split) for split in SPLITS}
    assert splits["train"] == splits["validation"] == splits["test"]
    assert len(splits["train"]) == number
    assert not splits["train"].keys() & set(NAMES)
    counts = Counter(splits["train"].values())
    assert set(counts) == set(GOODS)
    assert max(counts.values()) - min(counts.values()) <= 1, "guessing is right once in twenty"
    asked = [orders(task, split) for split in SPLITS]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    assert [len(rows) for rows in asked] == [4 * number, number, 3 * number]


def test_more_facts_begin_with_the_fewer_ones_and_the_pilot_has_others() -> None:
    for fewer, more in itertools.pairwise(NUM_FACTS):
        some, all_ = (people(f"new_facts_{n}", "test") for n in (fewer, more))
        assert list(all_.items())[:fewer] == list(some.items())
    most = max(NUM_FACTS)
    assert not people(f"new_facts_{most}", "test").keys() & people(
        f"new_facts_{most}{PILOT}", "test"
    )


@pytest.mark.parametrize("num_words", NUM_WORDS)
def test_no_order_of_words_is_in_two_splits_or_in_the_pilot(num_words: int) -> None:
    found = [
        orders(f"new_skill_{num_words}{variant}", split)
        for variant in ("", PILOT)
        for split in SPLITS
    ]
    assert [len(each) for each in found] == [1600, 120, 240] * 2
    assert len(set().union(*found)) == sum(map(len, found))


@pytest.mark.parametrize("task", SKILLS)
def test_the_answer_has_the_words_in_reverse_order(task: str) -> None:
    for row in generate(task, "test"):
        words = row["instruction"].rpartition(": ")[2].split()
        assert row["answer"].split() == words[::-1]
        assert len(set(words)) == len(words) == int(task.removesuffix(PILOT)[-1])


def test_the_rows_are_the_same_in_every_process() -> None:
    code = (
        "import json; from smt_ray.builtin.learning import generate; "
        "print(json.dumps([generate(t, 'train')[:50] for t in ('new_facts_400', 'new_skill_4')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [generate(task, "train")[:50] for task in ("new_facts_400", "new_skill_4")]
    assert json.loads(done.stdout) == here
