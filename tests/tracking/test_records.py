"""Records of metrics are written and read as lines of JSON."""

from __future__ import annotations

import json
import math

import pytest

from smt_ray.errors import UserError
from smt_ray.tracking.records import decode_record, encode_record, make_record, parse_records


def test_a_record_is_read_bit_for_bit_as_it_was_written() -> None:
    record = make_record(7, {"train/loss": 0.1 + 0.2, "train/tokens": 3}, time_ms=1_700_000_000_123)
    assert decode_record(encode_record(record)) == record


def test_nan_and_infinity_are_written_as_valid_json() -> None:
    record = make_record(1, {"a": math.nan, "b": math.inf, "c": -math.inf}, time_ms=1)
    line = encode_record(record)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(line, parse_constant=refuse)
    metrics = decode_record(line)["metrics"]
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)


def test_a_half_written_last_line_is_dropped_and_a_whole_one_is_read() -> None:
    lines = [encode_record(make_record(step, {"x": step}, time_ms=step)) for step in range(3)]
    text = "\n".join(lines)
    assert [record["step"] for record in parse_records(text)] == [0, 1, 2]
    assert [record["step"] for record in parse_records(text[:-4])] == [0, 1]


@pytest.mark.parametrize(
    "bad",
    [
        '{"step": 1}',
        "{}",
        "[]",
        '{"time_ms": 1, "step": 1, "metrics": 3}',
        '{"time_ms": 1e999, "step": 1, "metrics": {}}',
        '{"time_ms": 1, "step": 1, "metr',
        "[" * 5000,
    ],
    ids=lambda bad: bad[:30],
)
def test_a_finished_line_that_is_not_a_record_is_named(bad: str) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: each line must be") as error:
        parse_records(bad + "\n")
    assert bad[:80] in str(error.value)
    assert "\n" not in str(error.value)
