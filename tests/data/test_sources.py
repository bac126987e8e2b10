"""Claims about rows from files, folders, the hub and the built-in suites."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from smt_ray.builtin.suites import TASKS, generate_rows
from smt_ray.config.model_and_data import HubSource
from smt_ray.data.rows import Row
from smt_ray.data.sources import (
    digest_rows,
    read_file,
    read_task_rows,
    read_training_rows,
    split_rows,
)
from smt_ray.errors import UserError


def records(num: int, mark: str = "") -> list[dict[str, str]]:
    return [
        {"instruction": f"question {mark}{i}", "input": "", "output": f"é {i}", "answer": str(i)}
        for i in range(num)
    ]


def rows(num: int, mark: str = "") -> list[Row]:
    return [Row(**record) for record in records(num, mark)]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the layout of LLM-Adapters."""
    write(tmp_path / "ft-training_set" / "some.json", records(3, "s"))
    write(tmp_path / "dataset" / "boolq" / "test.json", records(2, "b"))
    return tmp_path


def refused(call: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value


def test_json_and_jsonl_hold_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records(3))
    assert read_file(write(tmp_path / "a.json", records(3))) == rows(3)
    assert read_file(write(tmp_path / "a.jsonl", f"{lines}\n\n")) == rows(3)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_line_feed_ends_a_line_of_jsonl(tmp_path: Path, end: str) -> None:
    record = {"instruction": "a\u2028b\u2029c\x85d", "output": "e"}
    path = tmp_path / "a.jsonl"
    line = json.dumps(record, ensure_ascii=False)
    path.write_bytes((line + end + line + end).encode())
    assert read_file(path) == [Row(**record)] * 2


def test_a_file_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "rows.json", []
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **how: read.append(self) or read_text(self, **how)
    )
    for minute, mark in enumerate("ab"):
        os.utime(write(path, records(1, mark)), ns=(0, minute))
        found = read_file(path)
        assert found == rows(1, mark)
        found.clear()  # the caller's own list
    assert len(read_file(path)) == 1
    assert len(read) == 2


def test_training_and_task_files_are_read_from_a_folder(folder: Path) -> None:
    assert read_training_rows(["ft-training_set/some.json"], str(folder)) == rows(3, "s")
    assert read_task_rows("boolq", str(folder), builtin=False) == rows(2, "b")


def test_a_path_outside_the_folder_is_found_too(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "elsewhere" / "x.json", records(1, "x"))
    assert read_training_rows([str(other)], str(folder)) == rows(1, "x")


def test_sources_are_joined_in_their_order(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "elsewhere" / "x.json", records(1, "x"))
    found = read_training_rows([str(other), "ft-training_set/some.json"], str(folder))
    assert found == rows(1, "x") + rows(3, "s")
    assert [row.position for row in found] == [0, 1, 2, 3]


@pytest.mark.parametrize("task", TASKS)
def test_a_builtin_source_is_the_suite_of_that_name(task: str) -> None:
    expected = [Row(**record) for record in generate_rows(task, "train")]
    assert read_training_rows([f"builtin:{task}"]) == expected
    tests = [Row(**record) for record in generate_rows(task, "test")]
    assert read_task_rows(task, None, builtin=True) == tests


def test_a_hub_source_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list(records(4))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = HubSource(hub="me/mine", config="main", split="test", revision="v2")
    assert read_training_rows([source]) == rows(4)
    assert asked == [("me/mine", "main", "test", "v2")]


def test_the_error_for_a_bad_row_of_the_hub_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = datasets.Dataset.from_list([*records(1), {"instruction": "a", "output": None}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: bad)
    error = refused(lambda: read_training_rows([HubSource(hub="me/mine")]))
    assert error.field == "hub:me/mine, row 1, field 'output'"


def test_the_error_for_a_missing_hub_dataset_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no way there\nmany\nlines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error = refused(lambda: read_training_rows([HubSource(hub="me/mine")]))
    assert str(error) == (
        "data.train: the hub dataset cannot be loaded (no way there); got 'me/mine'"
    )


@pytest.mark.parametrize(
    ("name", "content", "place", "rule"),
    [
        ("a.json", "[{]", "a.json", "valid JSON"),
        ("a.json", {"instruction": "a"}, "a.json", "list of rows"),
        ("a.json", [], "a.json", "holds no rows"),
        ("a.jsonl", "\n\n", "a.jsonl", "holds no rows"),
        ("a.jsonl", '{"instruction": "a", "output": "b"}\n{', "a.jsonl, line 2", "valid JSON"),
        ("a.json", [*records(2), {"output": "x"}], "a.json, row 2, field 'instruction'", "missing"),
    ],
)
def test_the_error_for_a_bad_file_names_the_place_in_it(
    tmp_path: Path, name: str, content: Any, place: str, rule: str
) -> None:
    path = write(tmp_path / name, content)
    error = refused(lambda: read_file(path))
    assert error.field == str(tmp_path / place)
    assert rule in error.rule


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_the_error_for_an_unreadable_file_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    if kind == "folder":
        path.mkdir()
    if kind == "binary":
        path.write_bytes(b"\xff\xfe")
    error = refused(lambda: read_file(path))
    assert error.field == str(path)
    assert "must be a readable JSON or JSONL file" in error.rule


def test_the_error_for_an_unknown_builtin_suite_lists_all() -> None:
    error = refused(lambda: read_training_rows(["builtin:huge"]))
    assert error.got == "huge"
    assert all(task in error.rule for task in TASKS)


def test_a_published_task_needs_a_folder() -> None:
    error = refused(lambda: read_task_rows("boolq", None, builtin=False))
    assert error.field == "data.dir"
    assert "dataset/boolq/test.json" in error.rule


def test_a_digest_depends_on_rows_fields_and_order() -> None:
    one = [Row("a", "b", "c", "d"), Row("e", "f")]
    others = [
        one[::-1],
        one[:1],
        [],
        [Row("a", "b", "d", "c"), one[1]],
        [Row("ab", "", "c", "d"), one[1]],
        [Row("a", "b", "c", "d "), one[1]],
    ]
    assert digest_rows(one) == digest_rows(iter(list(one)))
    assert len({digest_rows(each) for each in [one, *others]}) == 1 + len(others)


@pytest.mark.parametrize("max_rows", [None, 40])
def test_validation_rows_are_not_training_rows(max_rows: int | None) -> None:
    everything = rows(100)
    training, validation = split_rows(everything, max_rows=max_rows, validation_rows=7, seed=3)
    assert len(validation) == 7
    assert len(training) == (max_rows or 100) - 7
    assert not set(training) & set(validation)
    assert set(training) | set(validation) <= set(everything)


def test_a_split_is_a_function_of_the_seed() -> None:
    def split(seed: int) -> Any:
        return split_rows(rows(50), max_rows=None, validation_rows=5, seed=seed)

    assert split(1) == split(1)
    assert split(1)[1] != split(2)[1]


def test_fewer_rows_have_the_same_validation_rows() -> None:
    """So a run on fewer rows can be compared with a run on all rows."""
    whole = split_rows(rows(50), max_rows=None, validation_rows=5, seed=1)
    part = split_rows(rows(50), max_rows=20, validation_rows=5, seed=1)
    assert part[1] == whole[1]
    assert set(part[0]) < set(whole[0])


def test_training_and_validation_rows_keep_the_order_of_the_source() -> None:
    everything = rows(50)
    for side in split_rows(everything, max_rows=30, validation_rows=10, seed=1):
        assert side == [row for row in everything if row in side]


def test_validation_must_leave_rows_to_train_on() -> None:
    error = refused(lambda: split_rows(rows(5), max_rows=None, validation_rows=5, seed=0))
    assert (error.field, error.got) == ("data.validation_rows", 5)
