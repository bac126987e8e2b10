"""Claims about rows from files, folders, the hub and the built-in suites."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest

from smt_ray.builtin import learning
from smt_ray.builtin.suites import TASKS, generate_rows
from smt_ray.config.data import DataConfig, Source
from smt_ray.data import sources
from smt_ray.data.rows import Row
from smt_ray.data.sources import Reading, ReadRows, read_sources, read_task_rows
from smt_ray.data.splits import read_split
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


def read(*sources: Any, folder: Path | str | None = None, **options: Any) -> ReadRows:
    reading = Reading(None if folder is None else str(folder), **options)
    return read_sources(sources, reading, "data.train")


def read_training_rows(sources: list[Any], folder: str | None = None) -> list[Row]:
    return list(read(*sources, folder=folder).rows)


def read_file(path: Path) -> list[Row]:
    return list(read(str(path)).rows)


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
    read_records = sources.read_records
    monkeypatch.setattr(
        sources,
        "read_records",
        lambda *given, **how: read.append(given) or read_records(*given, **how),
    )
    for minute, mark in enumerate("ab"):
        os.utime(write(path, records(1, mark)), ns=(0, minute))
        found = read_file(path)
        assert found == rows(1, mark)
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
    source = Source(hub="me/mine", config="main", split="test", revision="v2")
    assert read_training_rows([source]) == rows(4)
    assert asked == [("me/mine", "main", "test", "v2")]


def test_the_error_for_a_bad_row_of_the_hub_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = datasets.Dataset.from_list([*records(1), {"instruction": "a", "output": None}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: bad)
    error = refused(lambda: read_training_rows([Source(hub="me/mine")]))
    assert error.field == "hub:me/mine, row 1, field 'output'"


def test_the_error_for_a_missing_hub_dataset_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no way there\nmany\nlines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error = refused(lambda: read_training_rows([Source(hub="me/mine")]))
    assert str(error) == (
        "data.train: the hub dataset cannot be loaded (no way there); got 'me/mine'. Fix: check its"
        " name, config, split and revision, and the connection"
    )


@pytest.mark.parametrize(
    ("name", "content", "place", "rule"),
    [
        ("a.json", "[{]", "a.json", "valid JSON"),
        ("a.json", "3", "a.json, row 0", "must be an object"),
        ("a.json", {"instruction": "a"}, "a.json, row 0, field 'output'", "is missing"),
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


def test_the_error_for_a_missing_file_names_the_key_and_the_file(tmp_path: Path) -> None:
    error = refused(lambda: read_file(tmp_path / "a.json"))
    assert (error.field, error.got) == ("data.train", str(tmp_path / "a.json"))
    assert "must be a file, a folder or a pattern that exists" in error.rule


def test_the_error_for_an_unknown_builtin_suite_lists_all() -> None:
    error = refused(lambda: read_training_rows(["builtin:huge"]))
    assert error.got == "huge"
    assert all(task in error.rule for task in TASKS)


def test_a_published_task_needs_a_folder() -> None:
    error = refused(lambda: read_task_rows("boolq", None, builtin=False))
    assert error.field == "data.dir"
    assert "dataset/boolq/test.json" in error.rule


def test_folders_and_patterns_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "more" / "b.jsonl", "\n".join(json.dumps(r) for r in records(2, "b")))
    write(tmp_path / "more" / "a.json", records(1, "a"))
    write(tmp_path / "more" / "notes.txt", "no rows")
    assert list(read(str(tmp_path / "more")).rows) == rows(1, "a") + rows(2, "b")
    assert list(read("more/*.jsonl", folder=tmp_path).rows) == rows(2, "b")
    error = refused(lambda: read("more/*.csv", folder=tmp_path))
    assert error.field == "data.train"


def test_a_source_names_its_columns_and_draws_its_rows(tmp_path: Path) -> None:
    renamed = [{"ask": r["instruction"], "say": r["output"], "id": 3} for r in records(9)]
    path = write(tmp_path / "a.json", renamed)
    columns = {"instruction": "ask", "output": "say"}
    source = Source(path=str(path), columns=columns, max_rows=4, weight=2)
    found = list(read(source, ignored=("id",)).rows)
    expected = [Row(r["instruction"], r["output"]) for r in records(9)]
    assert len(found) == 4
    assert found == [row for row in expected if row in found]
    assert found == list(read(source, ignored=("id",)).rows)
    assert found != list(read(source, ignored=("id",), seed=1).rows)
    assert {row.weight for row in found} == {2.0}


def test_rows_know_their_file_and_position(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", records(3))
    found = read(str(path), "builtin:tiny_arithmetic").rows
    assert found[2].place == f"{path}, row 2"
    assert found[3].place == "builtin:tiny_arithmetic, row 0"


def test_bad_rows_are_counted_if_they_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [*records(1), {"instruction": "a", "output": " "}, 3])
    found = read(str(path), skips_bad_rows=True)
    assert list(found.rows) == rows(1)
    assert found.num_bad == 2
    assert found.first_bad is not None
    assert found.first_bad.field == f"{path}, row 1, field 'output'"


def test_a_file_without_a_good_row_is_an_error_all_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"instruction": "a", "output": " "}])
    assert "row 0" in refused(lambda: read(str(path), skips_bad_rows=True)).field


def test_null_entries_of_tables_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow gives the arguments of every call the same keys."""
    call = {"function": {"name": "f", "arguments": {"a": 1, "b": None}}}
    turns = [
        {"role": "user", "content": "x", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    table = datasets.Dataset.from_list([{"messages": turns}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    (row,) = read(Source(hub="me/mine")).rows
    assert row.messages[1].extra["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_each_purpose_has_its_split(tmp_path: Path) -> None:
    content = {name: records(1, name) for name in ("train", "validation", "test", "extra")}
    path = str(write(tmp_path / "a.json", content))
    split = read_split(DataConfig(train=[path], validation=[path]), 0)
    assert (list(split.training), list(split.validation)) == (
        rows(1, "train"),
        rows(1, "validation"),
    )
    assert list(read(path, split="test", is_test=True).rows) == rows(1, "test")
    assert list(read(Source(path=path, split="extra")).rows) == rows(1, "extra")


@pytest.mark.parametrize("split", learning.SPLITS)
def test_a_builtin_learning_task_has_rows_of_its_own_for_each_use(split: str) -> None:
    source, reading = "builtin:new_facts_50", Reading(split=split, is_test=split == "test")
    found = read_sources([source], reading, "data.train").rows
    expected = [Row(**record) for record in learning.generate("new_facts_50", split)]
    assert [(row.instruction, row.output) for row in found] == [
        (row.instruction, row.output) for row in expected
    ]
    with pytest.raises(UserError, match="new_facts_<number>"):
        read_sources(["builtin:new_facts_51"], reading, "data.train")


def test_a_task_of_ones_own_gets_the_test_rows_of_a_builtin_suite() -> None:
    expected = [Row(**record) for record in generate_rows(TASKS[0], "test")]
    assert list(read(f"builtin:{TASKS[0]}", is_test=True).rows) == expected


@pytest.mark.parametrize("names", [
    ("train.jsonl", "test.jsonl", "valid.jsonl"),
    ("data/train-00000-of-00002.jsonl", "data/test-00000-of-00001.jsonl", "data/dev.jsonl"),
    ("train/a.jsonl", "test/a.jsonl", "val/a.jsonl"),
])  # fmt: skip
def test_the_files_of_a_folder_give_their_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "test"  # whose own name says nothing
    for name, mark in zip(names, ("train", "test", "held"), strict=True):
        write(folder / name, records(1, mark))
    write(folder / "latest.jsonl", records(1, "latest"))
    write(folder / ".ipynb_checkpoints" / "x.jsonl", records(1, "hidden"))
    found = {
        split: [row.instruction for row in read(str(folder), split=split).rows]
        for split in ("train", "test", "validation")
    }
    assert found["train"] in (["question train0", "question latest0"],
                              ["question latest0", "question train0"])  # fmt: skip
    assert "question test0" in found["test"]
    assert "question held0" in found["validation"]
    assert all("question hidden0" not in rows for rows in found.values())


def test_a_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"ask": "a", "say": "b"}])
    columns = {"instruction": "ask", "output": "says"}
    error = refused(lambda: read(Source(path=str(path), columns=columns), skips_bad_rows=True))
    assert "says" in error.rule
    assert error.field == f"{path}, columns"


def test_a_name_that_begins_with_a_tilde_is_no_home() -> None:
    assert "must be a file" in refused(lambda: read("~backup-of-nobody.jsonl")).rule


def test_a_weight_is_refused_where_it_has_no_effect(tmp_path: Path) -> None:
    source = Source(path=str(write(tmp_path / "a.json", records(1))), weight=2)
    error = refused(lambda: read_sources([source], Reading(), "evaluation.retention"))
    assert (error.field, error.got) == ("evaluation.retention", 2)


def test_a_split_that_a_file_does_not_have_is_refused(tmp_path: Path) -> None:
    plain, both = (
        write(tmp_path / "a.json", records(1)),
        write(tmp_path / "b.json", {"train": records(1), "test": records(2)}),
    )
    assert refused(lambda: read(Source(path=str(plain), split="test"))).got == "test"
    assert list(read(Source(path=str(both), split="test")).rows) == rows(2)
    assert refused(lambda: read(Source(path=str(both), split="dev"))).field == str(both)


def test_an_error_of_the_file_comes_before_that_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"instruction": "a"}\n{"instruction": "a"}\n{')
    assert refused(lambda: read_file(path)).field == f"{path}, line 3"


def test_wrong_columns_come_before_the_error_of_a_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"ask": "a"}, {"ask": "b", "say": "c"}])
    columns = {"instruction": "ask", "output": "says"}
    error = refused(lambda: read(Source(path=str(path), columns=columns)))
    assert (error.field, error.got) == (f"{path}, columns", ["ask", "say"])
