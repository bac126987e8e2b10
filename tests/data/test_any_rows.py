"""Claims about any record and any file of rows: it is read, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smt_ray.config.load import validate_config
from smt_ray.data.records import parse_row
from smt_ray.data.splits import read_split
from smt_ray.errors import UserError

NAMES = [
    "instruction", "input", "output", "answer", "messages", "conversations", "prompt",
    "completion", "text", "system", "history", "tools", "chosen", "rejected", "images",
    "role", "content", "from", "value", "name", "parameters", "tool_calls", "function",
]  # fmt: skip
Scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
    | st.sampled_from(["user", "assistant", "system", "human", "gpt", "tool", "\ud800", "[]", "{"])
)  # fmt: skip
Values = st.recursive(
    Scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
Records = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), Values, max_size=4)
TURN, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
PLACE = "rows.json, row 7"


def result_of(call: Callable[[], Any], place: str) -> Any:
    """What a call returns; None if it raises the error for users, which names a place."""
    try:
        return call()
    except UserError as error:
        problem = str(error)
    assert place in problem
    assert len(problem) < 3_000
    return None


def nested(depth: int) -> Any:
    value: Any = "a"
    for _ in range(depth):
        value = [value]
    return value


@given(Records | Values)
@example({"instruction": "a\ud800", "output": "b"})
@example({"messages": [TURN, {"role": "assistant", "content": "\udfff"}]})
@example({"messages": json.dumps(nested(200))})
@example({"instruction": float("nan"), "output": float("inf")})
@example({"instruction": "a", "output": "b", "\ud800": "c"})
def test_any_record_is_a_row_or_refused(record: Any) -> None:
    row = result_of(lambda: parse_row(record, PLACE), PLACE)
    if row is not None:
        (row.instruction + row.output).encode()


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": nested(900), "output": "b"},
        {"messages": [TURN, {"role": "assistant", "content": nested(900)}]},
        {"messages": [TURN, {**ANSWER, "tool_calls": nested(900)}]},
        {"messages": [TURN, ANSWER], "tools": nested(900)},
        {"messages": "[" * 100_000},
    ],
)
def test_a_record_that_is_nested_deeply_is_refused(record: Any) -> None:
    assert result_of(lambda: parse_row(record, PLACE), PLACE) is None


def test_any_file_is_read_or_refused(tmp_path: Path) -> None:
    def read(name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        config = validate_config({
            "name": "a", "model": {"builtin": "tiny"}, "data": {"train": [str(tmp_path / name)]},
        })  # fmt: skip
        result_of(lambda: read_split(config.data, config.seed), name)

    endings = ["json", "jsonl", "csv", "tsv", "parquet", "arrow", "txt", "jsonl.gz", "jsonl.zst"]
    contents = (
        st.binary(max_size=80)
        | st.text('{}[]":,a1\n\\u\x00', max_size=80).map(str.encode)
        | st.lists(Records, max_size=3).map(lambda rows: json.dumps(rows).encode())
        | st.lists(Records, max_size=3).map(
            lambda rows: "\n".join(json.dumps(row) for row in rows).encode()
        )
    )

    @given(st.sampled_from(endings), contents)
    @example("json", b"[" * 100_000 + b"]" * 100_000)
    @example("jsonl", b'{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b', "output": "a"}')
    @example("jsonl", b'{"instruction": ' + b"9" * 6_000 + b', "output": "a"}')
    @example("parquet", b"PAR1 nonsense PAR1")
    def any_content(ending: str, content: bytes) -> None:
        read(f"rows.{ending}", content)

    any_content()
