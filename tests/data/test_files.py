"""Claims about files of rows: formats, compressions, encodings, and their errors."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from smt_ray.data.files import read_records
from smt_ray.data.paths import expand
from smt_ray.errors import UserError

ROWS = [{"instruction": f"Say {c}", "output": c} for c in ("red", "green\nblue", 'a "b", c', "é")]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def table(delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["instruction", "output"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


def arrow(write: Callable[[Any, Any], Any]) -> bytes:
    data = io.BytesIO()
    write(pyarrow.Table.from_pylist(ROWS), data)
    return data.getvalue()


def stream() -> bytes:
    data, made = io.BytesIO(), pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_stream(data, made.schema) as writer:
        writer.write_table(made)
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", LINES),
        ("a.jsonl", LINES + "\n\n"),
        ("a.jsonl", json.dumps(ROWS, indent=1)),
        ("a.ndjson", LINES),
        ("rows", LINES),
        ("a.json", json.dumps({"data": ROWS})),
        ("a.json", json.dumps({"train": ROWS, "test": []}, indent=1)),
        ("a.csv", table(",")),
        ("a.tsv", table("\t")),
        ("a.parquet", arrow(pyarrow.parquet.write_table)),
        ("a.feather", arrow(pyarrow.feather.write_feather)),
        ("a.arrow", stream()),
        ("a.jsonl.gz", gzip.compress(LINES.encode())),
        ("a.jsonl.zst", zstandard.compress(LINES.encode())),
        ("a.json.bz2", bz2.compress(json.dumps(ROWS).encode())),
        ("a.csv.xz", lzma.compress(table(",").encode())),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("a.jsonl", LINES.replace("\n", "\r\n")),
        ("a.jsonl", LINES.replace("\n", "\r")),
    ],
)
def test_every_format_holds_the_same_rows(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert list(read_records(path, "train")) == ROWS


def test_a_split_is_taken_from_a_file_or_a_saved_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": ROWS[:1], "test": ROWS[1:]}))
    assert list(read_records(path, "test")) == ROWS[1:]
    splits = {
        "train": datasets.Dataset.from_list(ROWS[:1]),
        "test": datasets.Dataset.from_list(ROWS),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    splits["test"].save_to_disk(tmp_path / "one")
    assert expand(tmp_path / "saved", "data.train") == [tmp_path / "saved"]
    assert list(read_records(tmp_path / "saved", "test")) == ROWS
    assert list(read_records(tmp_path / "one", "train")) == ROWS
    with pytest.raises(UserError, match="split: must be one of train, test"):
        list(read_records(tmp_path / "saved", "validation"))


def test_values_stay_what_they_are(tmp_path: Path) -> None:
    """Readers of tables make times of dates, floats of integers, and nothing of NA."""
    odd = [{"output": "2024-01-01"}, {"output": 1}, {"output": None}, {"output": 2**70, "late": 1}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, odd)))
    assert list(read_records(path, "train")) == odd
    path = tmp_path / "a.csv"
    path.write_text("instruction,output\na,007\nb,NA\nc,true\n")
    assert [row["output"] for row in read_records(path, "train")] == ["007", "NA", "true"]


def test_other_line_ends_stay_within_a_row(tmp_path: Path) -> None:
    row = {"instruction": "a\u2028b\u2029c\x85d\x0be", "output": "f"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(read_records(path, "train")) == [row]


@pytest.mark.parametrize(
    ("encoding", "name"), [("latin-1", "cp1252"), ("utf-16", "utf-16"), ("utf-32", "utf-32")]
)
def test_another_encoding_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES.encode(encoding))
    with pytest.raises(UserError) as caught:
        list(read_records(path, "train"))
    assert caught.value.field == str(path)
    assert "must be encoded in UTF-8" in caught.value.rule
    assert name in caught.value.rule
    assert "iconv" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "content", "place", "rule"),
    [
        ("a.json", b"[{]", "a.json", "valid JSON"),
        ("a.jsonl", LINES.encode() + b"\n{", "a.jsonl, line 5", "valid JSON"),
        ("a.json", b'{"valid": [], "test": []}', "a.json", "a list for each split"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz", "readable file of rows"),
        (
            "a.jsonl.zst",
            b"no zstd",
            "a.jsonl.zst",
            "readable file of rows",
        ),
        ("a.jsonl.xz", b"no xz", "a.jsonl.xz", "readable file of rows"),
        ("a.parquet", b"no parquet", "a.parquet", "readable file of rows"),
        ("a.arrow", b"no arrow", "a.arrow", "readable file of rows"),
        ("a.json", b'[{"output": "a", "output": "b"}]', "a.json", "'output' is repeated"),
        ("a.csv", b"output,output\na,b\n", "a.csv, line 1", "name each column once"),
        ("a.csv", b"instruction,output\na\n", "a.csv, line 2", "as many cells"),
        ("a.csv", b"instruction,output\na,b,c\n", "a.csv, line 2", "as many cells"),
        ("a.csv", b'instruction,output\na,"b\n', "a.csv, after line 1", "valid CSV"),
    ],
)
def test_the_error_for_a_bad_file_names_the_place_in_it(
    tmp_path: Path, name: str, content: bytes, place: str, rule: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_records(path, "train"))
    assert caught.value.field == str(tmp_path / place)
    assert rule in caught.value.rule


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv"])
def test_records_are_read_one_after_the_other(tmp_path: Path, name: str) -> None:
    bad = table(",") + "a\n" if "csv" in name else LINES + "\n{"
    path = tmp_path / name
    path.write_bytes(gzip.compress(bad.encode()) if "gz" in name else bad.encode())
    records = read_records(path, "train")
    assert [next(records) for _ in ROWS] == ROWS
    with pytest.raises(UserError, match="line"):
        next(records)


@pytest.mark.parametrize("size", [10, 3000])
def test_tables_are_read_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    made = pyarrow.Table.from_pylist([{"text": str(i)} for i in range(5000)])
    pyarrow.parquet.write_table(made, tmp_path / "a.parquet", row_group_size=size)
    pyarrow.feather.write_feather(made, tmp_path / "a.feather", chunksize=size)
    for name in ("a.parquet", "a.feather"):
        assert list(read_records(tmp_path / name, "train")) == made.to_pylist()
