"""Claims about what a run says of its rows."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.documents.rows import BadRows, RowCounts, TokensSummary
from smt_ray.reporting.text.rows import row_warnings, rows_text


def summary(validation: RowCounts | None = None, **training: Any) -> TokensSummary:
    return TokensSummary(training=RowCounts(**training), validation=validation, prompt="chat")


def test_rows_without_trouble_have_no_warning() -> None:
    rows = summary(RowCounts(num_rows=5), num_rows=95, num_truncated=5, num_dropped=5)
    assert row_warnings(rows) == []
    assert rows_text(rows) == (
        "95 for training, 5 (5.0%) too long to learn from, 5 (5.3%) truncated, 5 for validation,"
        " prompt form chat"
    )


def test_many_dropped_or_truncated_rows_are_a_warning() -> None:
    dropped, truncated = row_warnings(summary(num_rows=2, num_truncated=1, num_dropped=30))
    assert dropped.startswith("30 of 32 training rows are dropped")
    assert truncated == "1 of 2 training rows are truncated to data.max_length"
    held = summary(RowCounts(num_rows=1, num_dropped=1), num_rows=9)
    assert row_warnings(held)[0].startswith("1 of 2 validation rows are dropped")


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"bad": BadRows(number=3, first="a.json, row 1: must not be empty")}, "3 training rows"),
        ({"num_rewritten": 4}, "of 4 training conversations, only the turns"),
        ({"left_out": {"tools": 2}}, "does not write the tools of 2 training rows"),
    ],
)
def test_what_is_lost_on_the_way_is_a_warning(counts: dict[str, Any], words: str) -> None:
    (warning,) = row_warnings(summary(num_rows=90, **counts))
    assert words in warning


def test_rows_that_cannot_be_read_and_moved_rows_are_told() -> None:
    rows = summary(RowCounts(num_rows=5), num_rows=95).model_copy(
        update={"unread": BadRows(number=2, first="b.json, row 7"), "num_moved": 3}
    )
    assert row_warnings(rows) == ["2 rows cannot be read, such as b.json, row 7"]
    assert "3 moved out of training" in rows_text(rows)
