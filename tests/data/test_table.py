"""Claims about rows on disk."""

from __future__ import annotations

import gc
import pickle
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from smt_ray.data.rows import Message, Row, digest_rows
from smt_ray.data.table import Rows, first_places

CALL = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"b": 1}}}]}
TURNS = (
    Message("system", "Be brief."),
    Message("user", "é 日本", extra={"name": "Ada"}),
    Message("assistant", "", is_learned=True, extra=CALL),
)
KINDS = [
    Row("a", "b", "c", "d", "e", history=(("f", "g"), ("h", "i")), place="x.json, row 0"),
    Row("é 日本", "", messages=TURNS, tools=({"z": 1, "a": [2.5, None, True]},)),
    Row("", "A text.", is_verbatim=True),
]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def many(number: int) -> Iterator[Row]:
    return (
        Row(f"question {i} {'x' * 200}", f"answer {i}", place=f"row {i}") for i in range(number)
    )


def test_rows_are_read_as_they_were_written() -> None:
    found = list(Rows.of(KINDS))
    assert found == KINDS
    assert [row.place for row in found] == [row.place for row in KINDS]
    assert [repr(row.tools) for row in found] == [repr(row.tools) for row in KINDS]


def test_rows_are_counted_over_all_sources_and_keep_their_position() -> None:
    rows = Rows.joined([Rows.of(KINDS, 2.0), Rows.of(many(5000))])
    assert [rows[i].position for i in (0, 2, 3, 5002)] == [0, 2, 3, 5002]
    assert rows[-1] == list(many(5000))[-1]
    chosen = rows.select([4999, 1])
    assert [(row.position, row.weight) for row in chosen] == [(4999, 1.0), (1, 2.0)]
    assert chosen.weights().tolist() == [1.0, 2.0]
    assert list(rows[1:4]) == [*KINDS[1:], next(many(1))]


def test_the_fingerprints_are_those_of_the_rows() -> None:
    rows = Rows.joined([Rows.of(many(5000)), Rows.of(KINDS)]).select([5001, 7, 4999])
    assert rows.digest() == digest_rows(rows)
    assert [bytes(m) for m in rows.meanings()] == [row.meaning()[:16] for row in rows]
    assert rows.select([]).digest() == digest_rows([])


def test_the_first_of_equal_fingerprints_is_found() -> None:
    values = np.random.default_rng(0).integers(0, 50, (300, 1))
    found = first_places(np.repeat(values, 16, axis=1).astype(np.uint8))
    assert found.tolist() == [values[:, 0].tolist().index(value) for value in values[:, 0]]


def test_another_process_reads_the_same_rows() -> None:
    rows = Rows.joined([Rows.of(KINDS), Rows.of(many(10))])[2:5]
    again = pickle.loads(pickle.dumps(rows))
    assert list(again) == list(rows)
    assert [row.position for row in again] == [2, 3, 4]


def test_the_file_is_removed_with_the_last_of_its_rows(scratch: Path) -> None:
    part = Rows.of(KINDS)[1:]
    assert list(scratch.rglob("*.arrow"))
    assert len(part) == 2
    del part
    gc.collect()
    assert not list(scratch.iterdir())


def test_an_error_leaves_no_file(scratch: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Rows.of(Row("a", str(1 // (5 - i))) for i in range(9))
    assert not list(scratch.iterdir())


def test_more_rows_need_hardly_more_memory() -> None:
    """What grows are the 8 bytes of a row's place and position."""

    def peak(number: int) -> int:
        tracemalloc.start()
        rows = Rows.of(many(number))
        assert sum(len(row.output) for row in rows.select(range(0, number, 50)))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(17_000) < 1.2 * peak(9_000)
