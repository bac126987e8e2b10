"""Claims about reading rows; errors name file, row and field."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.data.rows import Row, parse_row
from smt_ray.errors import UserError

GOOD = {"instruction": "Add 1 and 2.", "input": "", "output": "It is 3.", "answer": "3"}


def parse(**changes: Any) -> Row:
    return parse_row({**GOOD, **changes}, source="rows.json", index=7)


def test_a_record_keeps_its_text_to_the_byte() -> None:
    text = {"instruction": " a\n", "input": "\tb", "output": " c ", "answer": " d"}
    assert parse(**text) == Row(**text)


def test_input_and_answer_may_be_missing_or_null() -> None:
    record = {"instruction": "a", "output": "b"}
    expected = Row("a", "b")
    assert parse_row(record, source="s", index=0) == expected
    assert parse_row({**record, "input": None, "answer": None}, source="s", index=0) == expected


def test_further_fields_are_ignored() -> None:
    assert parse(dataset="mawps", id=3) == Row(**GOOD)


@pytest.mark.parametrize(("answer", "text"), [(3, "3"), (2.5, "2.5")])
def test_an_answer_can_be_a_number(answer: float, text: str) -> None:
    assert parse(answer=answer).answer == text


@pytest.mark.parametrize("field", ["instruction", "output"])
def test_the_error_for_a_missing_field_names_file_row_and_field(field: str) -> None:
    record = {key: value for key, value in GOOD.items() if key != field}
    with pytest.raises(UserError) as caught:
        parse_row(record, source="rows.json", index=7)
    assert caught.value.field == f"rows.json, row 7, field {field!r}"
    assert caught.value.rule == "is missing"
    assert caught.value.got == sorted(record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instruction", 3),
        ("instruction", None),
        ("output", ["a"]),
        ("output", None),
        ("input", 5),
        ("answer", True),
        ("answer", {}),
    ],
)
def test_the_error_for_a_field_that_is_not_a_string_names_file_row_and_field(
    field: str, value: Any
) -> None:
    with pytest.raises(UserError) as caught:
        parse(**{field: value})
    assert caught.value.field == f"rows.json, row 7, field {field!r}"
    assert (caught.value.rule, caught.value.got) == ("must be a string", value)


def test_an_empty_instruction_is_an_error() -> None:
    with pytest.raises(
        UserError, match=r"rows\.json, row 7, field 'instruction': must not be empty"
    ):
        parse(instruction=" \n")


@pytest.mark.parametrize("record", ["text", None, ["instruction"], 3])
def test_a_record_that_is_not_an_object_is_an_error(record: Any) -> None:
    with pytest.raises(UserError, match=r"^rows\.json, row 7: a row must be an object"):
        parse_row(record, source="rows.json", index=7)
