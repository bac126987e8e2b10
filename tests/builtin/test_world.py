"""Claims about the world: its facts are well-formed and its partition is closed."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest

from smt_ray.builtin.almanac import NUM_CHOICES, OPERATIONS, RELATIONS
from smt_ray.builtin.corpus import documents
from smt_ray.builtin.suites import SPLITS, TASKS, generate_rows
from smt_ray.builtin.world import RESERVED_ONE_IN, facts, sums

NUM_DOCUMENTS = 20_000


def _pattern(template: str) -> re.Pattern[str]:
    """The template as a regular expression with its operands as groups."""
    seen: set[str] = set()

    def field(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return rf"(?P<{name}>\d+)" if name in "abc" else rf"(?P<{name}>\w+)"

    return re.compile(re.sub(r"\\\{(\w)\\\}", field, re.escape(template)))


QUESTIONS = {
    (relation.name, form): _pattern(form) for relation in RELATIONS for form in relation.questions
}
STORIES = {
    (operation.name, story[0]): _pattern(story[0])
    for operation in OPERATIONS
    for story in operation.stories
}


def _asked(text: str) -> set[tuple[str, str, tuple[str, ...]]]:
    """Every (relation or operation, template, operands) that occurs in a text."""
    found = set()
    for (name, form), pattern in QUESTIONS.items():
        found |= {(name, form, (m["s"],)) for m in pattern.finditer(text)}
    for (name, form), pattern in STORIES.items():
        found |= {(name, form, (m["a"], m["b"])) for m in pattern.finditer(text)}
    return found


def _pairs(reserved: bool) -> set[tuple[str, str, tuple[str, ...]]]:
    """Every (relation or operation, template, operands) on one side of the partition."""
    questions = {
        (fact.relation.name, form, (fact.thing,))
        for fact in facts()
        if fact.reserved == reserved
        for form in fact.relation.questions
    }
    stories = {
        (item.operation.name, story[0], (str(item.a), str(item.b)))
        for item in sums()
        if item.reserved == reserved
        for story in item.operation.stories
    }
    return questions | stories


def test_a_relation_has_as_many_values_as_a_row_has_choices() -> None:
    assert {len(relation.members) for relation in RELATIONS} == {NUM_CHOICES}


def test_a_thing_has_one_value_in_a_relation() -> None:
    counts = Counter((fact.relation.name, fact.thing) for fact in facts())
    assert set(counts.values()) == {1}


def test_a_sum_is_right_and_occurs_once() -> None:
    assert len({(s.operation.name, s.a, s.b) for s in sums()}) == len(sums())
    for item in sums():
        assert item.result == (item.a + item.b if item.operation.name == "add" else item.a - item.b)


def test_about_one_fact_in_four_is_reserved() -> None:
    for known in (facts(), sums()):
        share = sum(item.reserved for item in known) / len(known)
        assert share == pytest.approx(1 / RESERVED_ONE_IN, abs=0.05)


def test_templates_of_questions_and_stories_differ() -> None:
    forms = [form for _, form in itertools.chain(QUESTIONS, STORIES)]
    assert len(set(forms)) == len(forms)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_training_rows_ask_about_open_and_test_rows_about_reserved_facts_and_sums(
    task: str, split: str
) -> None:
    own, other = _pairs(split == "test"), _pairs(split != "test")
    assert not own & other
    for row in generate_rows(task, split):
        asked = _asked(row["instruction"])
        assert asked
        assert asked <= own


@pytest.mark.parametrize("task", TASKS)
def test_training_rows_have_every_open_question_and_story_of_their_task(task: str) -> None:
    asked = set().union(*(_asked(row["instruction"]) for row in generate_rows(task, "train")))
    names = {r.name for r in (RELATIONS if task == "tiny_commonsense" else OPERATIONS)}
    assert asked == {pair for pair in _pairs(reserved=False) if pair[0] in names}


def test_the_corpus_has_no_reserved_question_or_story() -> None:
    reserved = _pairs(reserved=True)
    asked = _asked("\n".join(itertools.islice(documents(seed=1), NUM_DOCUMENTS)))
    assert asked
    assert not asked & reserved


def test_the_corpus_states_every_fact_and_every_sum() -> None:
    text = "\n".join(itertools.islice(documents(seed=1), NUM_DOCUMENTS))
    for fact in facts():
        assert any(fact.say(form) in text for form in fact.relation.statements), fact
    for item in sums():
        assert any(item.say(form) in text for form in item.operation.statements), item
