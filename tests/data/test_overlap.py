"""Claims about test questions that are also in the training rows."""

from __future__ import annotations

from smt_ray.data.overlap import RowSet, find_duplicates, find_overlaps, question_key, question_keys
from smt_ray.data.rows import Message, Row
from smt_ray.data.table import Rows
from smt_ray.documents.overlaps import FoundQuestion


def row(question: str, answer: str, position: int = 0, context: str = "") -> Row:
    return Row(question, "!", context, answer, position=position)


def overlap(index: int, position: int, same_answer: bool) -> FoundQuestion:
    return FoundQuestion(index=index, position=position, same_answer=same_answer)


def chat(*turns: tuple[str, str], position: int = 0) -> Row:
    others = "\n".join(content for role, content in turns if role != "assistant")
    messages = tuple(Message(*turn) for turn in turns)
    return Row(others, turns[-1][1], messages=messages, position=position)


def test_the_questions_of_a_conversation_are_those_of_its_user() -> None:
    turns = [("system", "Be brief."), ("user", "How many pens?"), ("assistant", "3"),
             ("user", "And then one more?"), ("tool", "4"), ("assistant", "4")]  # fmt: skip
    test = [
        row("How many pens", "3"),
        row("and then one more", "4"),
        row("How many pens? And then one more?", "4"),
        row("Be brief. How many pens?", "3"),
        row("Be brief", "!"),
        row("3", "3"),
    ]
    found = find_overlaps([row("New?", "1"), chat(*turns, position=5)], test)
    assert found == [overlap(index, 5, False) for index in (0, 1, 2)]


def test_a_question_that_a_conversation_repeats_counts_once() -> None:
    twice = chat(("user", "Hi?"), ("assistant", "Yo"), ("user", "Hi"), ("assistant", "Yo"))
    assert question_keys(twice) == ["hi", "hi hi"]


def test_case_spaces_and_punctuation_are_ignored() -> None:
    training = [row("How many pens ?", "3", 7), row("And now?", "2", 8)]
    test = [row("New?", "1"), row("how  many\nPENS", "3"), row("And now...", "4")]
    assert find_overlaps(training, test) == [overlap(1, 7, True), overlap(2, 8, False)]


def test_questions_that_differ_in_a_number_or_a_word_are_different() -> None:
    training = [row("Ann has 3 pens. How many?", "3")]
    test = [row("Ann has 4 pens. How many?", "3"), row("Ann has 3 red pens. How many?", "3")]
    assert find_overlaps(training, test) == []


def test_the_input_is_part_of_the_question() -> None:
    assert question_key(row("Is it?", "", context="A cat.")) == question_key(
        row("Is it? A cat", "")
    )
    assert question_key(row("Is it?", "", context="A cat.")) != question_key(row("Is it?", ""))


def test_the_first_of_several_training_rows_is_reported_and_any_may_have_the_answer() -> None:
    training = [row("Q", "1", 4), row("Q", "2", 5)]
    assert find_overlaps(training, [row("Q", "2")]) == [overlap(0, 4, True)]


def test_duplicates_within_a_set_are_the_later_ones() -> None:
    rows = [row("How many?", "3"), row("how many", "3"), row("How many?", "3"), row("Why?", "4")]
    training = RowSet("training", Rows.of(rows))
    found = find_duplicates(training, training)
    assert (found.num_rows, found.num_identical, found.num_same_question) == (4, 1, 2)
    assert found.first == rows[1].place


def test_duplicates_between_sets_are_those_of_the_first() -> None:
    held = [row("how many", "3"), row("When?", "5"), Row("", "A text.", is_verbatim=True)]
    other = [row("How many?", "3"), row("How many?", "3"), Row("", "Another.", is_verbatim=True)]
    found = find_duplicates(RowSet("validation", Rows.of(held)), RowSet("training", Rows.of(other)))
    assert (found.num_rows, found.num_identical, found.num_same_question) == (3, 0, 1)
