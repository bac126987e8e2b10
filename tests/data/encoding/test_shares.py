"""Claims about rows that several processes tokenise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.data.encoding.rows import CHUNK, Encoding, encode_rows
from smt_ray.data.encoding.shares import RowsJob, encode_on_disk, num_processes
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.data.prompts import Prompts
from smt_ray.data.rows import Message, Row
from smt_ray.data.table import Rows
from smt_ray.documents.rows import RowCounts
from smt_ray.errors import UserError

FIELDS = ("input_ids", "offsets", "prompt_lengths", "positions")
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}\n{% endfor %}"

Make = Callable[[str], Any]
Encode = Callable[..., tuple[EncodedRows, RowCounts]]


@pytest.fixture
def encode(make_tokenizer: Make, tmp_path: Path) -> Encode:
    def encoded(rows: list[Row], number: int, **settings: Any) -> tuple[EncodedRows, RowCounts]:
        tokenizer = make_tokenizer("bytes")
        tokenizer.chat_template = TEMPLATE
        prompts = partial(Prompts, tokenizer, "clean")
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        job = RowsJob(Rows.of(rows), Encoding(**settings), prompts, folder)
        return encode_on_disk(job, prompts(), number, seen.append)

    seen: list[int] = []
    return encoded


def alike(one: EncodedRows, other: EncodedRows) -> bool:
    names = [*FIELDS, *(["is_target"] if one.is_target is not None else [])]
    same = [torch.equal(getattr(one, name), getattr(other, name)) for name in names]
    return all(same) and (one.is_target is None) == (other.is_target is None)


def talk(index: int) -> Row:
    turns = [("user", f"Add {index}."), ("assistant", "3"), ("user", "Sure?"), ("assistant", "No")]
    said = tuple(Message(role, text, is_learned=role == "assistant") for role, text in turns)
    return Row("Add.", "No", messages=said)


def number_of(index: int) -> Row:
    return Row(f"Add {index} and {index}.", str(2 * index), place=f"row {index}")


@pytest.mark.parametrize("has_talks", [False, True])
def test_tokens_on_disk_are_those_in_memory(
    encode: Encode, make_tokenizer: Make, has_talks: bool
) -> None:
    rows = [number_of(i) for i in range(CHUNK + 60)]
    if has_talks:  # in the second chunk, so that the targets of the first are written before
        rows[CHUNK + 20] = talk(1)
    tokenizer = make_tokenizer("bytes")
    tokenizer.chat_template = TEMPLATE
    placed = [replace(row, position=i) for i, row in enumerate(rows)]
    expected, counts = encode_rows(tokenizer, placed, Encoding(60))
    found, found_counts = encode(rows, 1, max_length=60)
    assert alike(found, expected)
    assert found_counts == counts
    assert (found.is_target is not None) == has_talks
    assert found.positions.tolist() == list(range(len(rows)))


def test_several_processes_find_what_one_finds(encode: Encode) -> None:
    rows = [talk(i) if i % 7 == 0 else number_of(i) for i in range(2 * CHUNK + 60)]
    for place in (5, CHUNK + 9, 2 * CHUNK + 4):
        rows[place] = replace(rows[place], output=f"{place} </s> more", place=f"bad row {place}")
    one, counts = encode(rows, 1, max_length=45, bad_rows="skip")
    two, same_counts = encode(rows, 2, max_length=45, bad_rows="skip")
    assert alike(one, two)
    assert counts == same_counts
    assert counts.bad.number == 3
    assert counts.num_truncated
    assert "bad row 5" in str(counts.bad.first)


@pytest.mark.slow
def test_the_error_of_several_processes_is_that_of_the_first_row(encode: Encode) -> None:
    rows = [number_of(i) for i in range(2 * CHUNK)]
    for place in (CHUNK - 2, CHUNK):  # the second process is the first to find one
        rows[place] = replace(rows[place], output="</s> more", place=f"bad row {place}")
    with pytest.raises(UserError, match=f"bad row {CHUNK - 2}"):
        encode(rows, 2)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("num_rows", [1, CHUNK, 3 * CHUNK + 1, 7 * CHUNK - 1])
def test_shares_are_whole_chunks_in_order(num_rows: int, number: int) -> None:
    job = RowsJob(range(num_rows), Encoding(), None, Path())  # type: ignore[arg-type]
    shares = [job.share(i, number) for i in range(number)]
    assert [row for share in shares for row in share] == list(range(num_rows))
    assert all(share[0] % CHUNK == 0 for share in shares if share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 2 * CHUNK


def test_few_rows_need_no_process_and_many_use_those_that_are_wanted() -> None:
    assert num_processes(32_767, 8) == 1
    assert num_processes(32_768, 8) == 2
    assert num_processes(1_000_000, 8) == 8
    assert num_processes(1_000_000, 1) == 1
    assert 1 <= num_processes(1_000_000, None) <= 32
