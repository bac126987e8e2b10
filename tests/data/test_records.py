"""Claims about records as rows: every form, and errors that name file, row and field."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import pytest
import yaml

from smt_ray.data.records import parse_row
from smt_ray.data.rows import Message, Row
from smt_ray.errors import UserError

GOOD = {"instruction": "Add 1 and 2.", "input": "", "output": "It is 3.", "answer": "3"}
ASKED, SAID = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
TURNS = (Message("user", "2+2?"), Message("assistant", "4", is_learned=True))
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def parse(record: Any, **options: Any) -> Row:
    row = parse_row(record, "rows.json, row 7", **options)
    assert row is not None
    return row


def refused(record: Any, **options: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        parse_row(record, "rows.json, row 7", **options)
    assert caught.value.field.startswith("rows.json, row 7")
    assert caught.value.fix
    return caught.value


def test_a_record_keeps_its_text_to_the_byte() -> None:
    text = {"instruction": " a\n", "input": "\tb", "output": " c ", "answer": " d"}
    assert parse(text) == Row(**text)


def test_fields_that_are_null_count_as_missing() -> None:
    expected = Row("a", "b")
    assert parse({"instruction": "a", "output": "b"}) == expected
    nulls = dict.fromkeys(("input", "answer", "messages", "text"))
    assert parse({"instruction": "a", "output": "b", **nulls}) == expected


CHAT = Row("2+2?", "4", messages=TURNS)


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"messages": [ASKED, SAID]}, CHAT),
        ({"messages": json.dumps([ASKED, SAID])}, CHAT),
        ({"messages": SHAREGPT}, CHAT),
        ({"messages": [{**ASKED, "role": "User"}, {**SAID, "role": "MODEL"}]}, CHAT),
        ({"conversations": SHAREGPT}, CHAT),
        ({"conversations": [ASKED, SAID]}, CHAT),
        ({"prompt": [ASKED], "completion": [SAID]}, CHAT),
        ({"prompt": "2+2?", "completion": "4"}, Row("2+2?", "4", is_verbatim=True)),
        ({"question": "2+2?", "answer": "4"}, Row("2+2?", "4", answer="4")),
        ({"question": "2+2?", "answer": 4}, Row("2+2?", "4", answer="4")),
        ({"text": "A document."}, Row("", "A document.", is_verbatim=True)),
        ({"instruction": "", "input": "hus", "output": "house"}, Row("hus", "house")),
        ({"instruction": "a", "output": 4}, Row("a", "4")),
        ({"instruction": "a", "output": "b", "system": "c", "history": [["d", "e"]]},
         Row("a", "b", system="c", history=(("d", "e"),))),
    ],
)  # fmt: skip
def test_every_form_is_recognised(record: Any, row: Row) -> None:
    assert parse(record) == row


def test_columns_name_the_fields_of_any_other_form() -> None:
    record = {"query": "a", "context": "b", "response": "c", "id": 3}
    columns = {"instruction": "query", "input": "context", "output": "response"}
    assert parse(record, columns=columns, ignored=["id"]) == Row("a", "c", input="b")
    turns = {"dialog": [ASKED, SAID]}
    assert parse(turns, columns={"messages": "dialog"}) == CHAT


def test_a_record_may_lack_a_column_of_an_optional_field() -> None:
    columns = {"instruction": "ask", "input": "more", "output": "say"}
    assert parse({"ask": "a", "say": "b"}, columns=columns) == Row("a", "b")


@pytest.mark.parametrize("key", ["Unnamed: 0", "", "a, b", "1"])
def test_the_fix_for_an_odd_key_is_yaml_that_names_it(key: str) -> None:
    fix = refused({**GOOD, key: 3}).fix
    assert key in yaml.safe_load(fix[fix.index("[") : fix.index("]") + 1])


def test_what_a_test_row_lacks_is_not_to_be_skipped() -> None:
    error = refused({"messages": []}, is_test=True)
    assert "bad_rows" not in error.fix


def test_a_test_conversation_may_end_with_its_question() -> None:
    row = parse({"messages": [ASKED], "answer": "4"}, is_test=True)
    assert [turn.role for turn in row.messages] == ["user", "assistant"]
    assert (row.answer, row.messages[-1].content) == ("4", "")


@pytest.mark.parametrize("extra", [{"category": "qa"}, {"category": "qa", "id": 0}])
def test_a_key_that_no_form_knows_is_refused_by_name(extra: dict[str, Any]) -> None:
    record = {**GOOD, **extra}
    error = refused(record, on_bad=lambda _: None)
    assert error.rule == f"has keys that no form of rows knows: {', '.join(sorted(extra))}"
    assert f"data.ignore_columns: [{', '.join(sorted(extra))}]" in error.fix
    assert parse(record, ignored=list(extra)) == Row(**GOOD)


def test_a_key_of_a_turn_that_is_not_known_is_refused_by_name() -> None:
    record = {"messages": [{**ASKED, "mood": "good"}, SAID]}
    assert "mood" in refused(record, on_bad=lambda _: None).rule
    assert parse(record, ignored=["mood"]) == CHAT


@pytest.mark.parametrize(
    ("record", "fix"),
    [
        ({"prompt": "a", "response": "b"}, "columns: {instruction: prompt, output: response}"),
        ({"instruction": "a", "context": "b", "response": "c", "category": "d"},
         "columns: {instruction: instruction, output: response, input: context}"),
        ({"dialog": []}, "columns: {messages: dialog}"),
        ({"foo": "a"}, "messages; conversations; prompt and completion; instruction and output"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"},
         "{prompt: prompt, completion: chosen}, and data.ignore_columns to [rejected]"),
        ({**GOOD, "images": ["a.png"]}, "data.ignore_columns to [images]"),
    ],
)  # fmt: skip
def test_what_is_not_recognised_comes_with_a_fix_that_works(record: Any, fix: str) -> None:
    assert fix in refused(record).fix


def test_the_fix_for_preferences_works() -> None:
    record = {"prompt": "a", "chosen": "b", "rejected": "c"}
    columns = {"prompt": "prompt", "completion": "chosen"}
    row = parse(record, columns=columns, ignored=["rejected"])
    assert row == Row("a", "b", is_verbatim=True)


@pytest.mark.parametrize(
    ("record", "field", "rule"),
    [
        ({"instruction": "a"}, "'output'", "is missing"),
        ({"instruction": "a", "output": None}, "'output'", "must not be null"),
        ({"instruction": "a", "output": ""}, "'output'", "must not be empty"),
        ({"instruction": "a", "output": " \n"}, "'output'", "must not be empty"),
        ({"instruction": " \n", "output": "a"}, "'instruction'", "must not be empty"),
        ({"instruction": "a", "output": True}, "'output'", "must be a string"),
        ({"instruction": "a", "output": {"b": 1}}, "'output'", "must be a string"),
        ({"instruction": "a", "output": ["b"]}, "'output'", "must be a string"),
        ({"instruction": "a", "output": "b\ud83d"}, "'output'", "must be valid Unicode"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "'history'", "list of pairs"),
        ({"messages": []}, "'messages'", "must be a list of turns"),
        ({"messages": [[ASKED, SAID]]}, "'messages', turn 0", "must have role and content"),
        ({"messages": [{"role": "user"}, SAID]}, "turn 0", "must have role and content"),
        ({"messages": [{"role": "owl", "content": "x"}]}, "turn 0, role", "must be one of system"),
        ({"messages": [{"role": "user", "content": "\ud83d"}, SAID]}, "turn 0, content", "Unicode"),
        ({"messages": [ASKED, {"role": "assistant", "content": ""}]}, "turn 1, content", "empty"),
        ({"messages": [ASKED]}, "'messages'", "must end with a turn of the assistant"),
        ({"messages": [SAID]}, "'messages'", "must not begin with the assistant"),
        ({"messages": [ASKED, {**SAID, "weight": 0}]}, "'messages'", "must have a turn"),
        ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "turn 1, weight", "must be 0 or 1"),
        ({"messages": [{**ASKED, "train": True}, SAID]}, "turn 0, train", "must be 0"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, SAID]},
         "turn 0, content, part 0", "must be text"),
        ({"messages": [ASKED, SAID], "tools": "hammer"}, "'tools'", "list of tools"),
        ({"instruction": "a", "output": math.nan}, "'output'", "NaN or infinite"),
        ({"instruction": "a", "output": math.inf}, "'output'", "NaN or infinite"),
        ({"messages": [ASKED, SAID], "tools": [{"name": "\ud83d"}]}, "'tools'", "Unicode"),
        ({"messages": [ASKED, SAID], "tools": [{"name": datetime.now()}]}, "'tools'", "JSON value"),
        ({"messages": [ASKED, {**SAID, "tool_calls": [
            {"function": {"name": "f", "arguments": {"a": "\ud83d"}}}]}]}, "tool_calls", "Unicode"),
        (3, "", "must be an object"),
        (None, "", "must be an object"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named_and_can_be_skipped(
    record: Any, field: str, rule: str
) -> None:
    error = refused(record)
    assert field in error.field
    assert rule in error.rule
    skipped: list[UserError] = []
    assert parse_row(record, "rows.json, row 7", on_bad=skipped.append) is None
    assert [str(e) for e in skipped] == [str(error)]


def test_a_test_row_needs_no_output() -> None:
    assert parse({"instruction": "a", "answer": "3"}, is_test=True) == Row("a", "", answer="3")
    assert parse({**GOOD, "output": ""}, is_test=True).output == ""


def test_only_turns_of_the_assistant_with_weight_are_learned() -> None:
    for key, no in (("weight", 0), ("train", False), ("loss", False)):
        turns = [ASKED, {**SAID, key: no}, ASKED, {**SAID, key: 1}]
        learned = [turn.is_learned for turn in parse({"messages": turns}).messages]
        assert learned == [False, False, False, True]


def test_a_key_of_a_part_that_is_not_known_is_refused() -> None:
    part = {"type": "text", "text": "2+2?", "image": "cat.png", "note": None}
    record = {"messages": [{"role": "user", "content": [part]}, SAID]}
    assert "image" in refused(record).rule
    assert parse(record, ignored=["image"]) == CHAT


def test_lists_of_numbers_are_texts() -> None:
    row = parse({"prompt": "[3, 1, 2]", "completion": "[1, 2, 3]"})
    assert row == Row("[3, 1, 2]", "[1, 2, 3]", is_verbatim=True)


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]
    assert parse({"messages": [{"role": "user", "content": parts}, SAID]}) == CHAT


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": None, "tool_calls": [
            {**CALL, "function": {"name": "f", "arguments": '{"a": 1}'}}]},
    ],
)  # fmt: skip
def test_a_call_of_a_tool_needs_no_content(turn: Any) -> None:
    result = {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "f"}
    row = parse({"messages": [ASKED, turn, result, SAID], "tools": [TOOL]})
    call = row.messages[1]
    assert (call.content, call.is_learned) == ("", True)
    assert call.extra == {"tool_calls": [CALL]}
    assert row.messages[2].extra == {"tool_call_id": "c1", "name": "f"}
    assert row.tools == (TOOL,)


def test_sharegpt_calls_tools_by_roles() -> None:
    turns = [
        {"from": "human", "value": "2+2?"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "4"},
    ]
    row = parse({"conversations": turns, "tools": json.dumps([TOOL]), "system": "Be brief."})
    roles = ["system", "user", "assistant", "tool", "assistant"]
    assert [turn.role for turn in row.messages] == roles
    called = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert row.messages[2].extra == {"tool_calls": [called]}
    assert row.tools == (TOOL,)


def test_thoughts_reach_the_template() -> None:
    said = {**SAID, "reasoning_content": "Two and two."}
    turn = parse({"messages": [ASKED, said]}).messages[1]
    assert turn.for_template() == {**SAID, "reasoning_content": "Two and two."}


def test_values_in_messages_are_cut() -> None:
    error = refused({"instruction": "a", "output": ["x" * 1000]})
    assert len(str(error)) < 500
    assert "(1004 characters)" in str(error)
