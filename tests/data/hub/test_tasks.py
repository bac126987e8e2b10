"""Claims about rows of the original datasets, against those of LLM-Adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from smt_ray.config.data import Source
from smt_ray.data.hub.tasks import HUB_TASKS
from smt_ray.data.rows import Row
from smt_ray.data.sources import Reading, is_local, read_sources, read_task_rows
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import SUITES
from tests.data.hub.parsing import parse
from tests.data.hub.records import RECORDS

# The answer formats in the training files, and a task with each.
FORMATS = {
    "true/false": "boolq",
    "solution1/solution2": "piqa",
    "answer1/answer2/answer3": "social_i_qa",
    "option1/option2": "winogrande",
    "answer1/answer2/answer3/answer4": "openbookqa",
}
Asked = tuple[str, str | None, str, str | None]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """A hub with one invented record in each dataset; it notes the requests."""
    asked: list[Asked] = []
    records = {(task.dataset, name): RECORDS[name][0] for name, task in HUB_TASKS.items()}

    def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> Any:
        asked.append((path, name, split, revision))
        found = [r for (dataset, task), r in records.items() if dataset == path]
        if path == "allenai/ai2_arc":
            found = [records[path, str(name)]]
        return datasets.Dataset.from_list(found)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def training_rows(*sources: str) -> list[Row]:
    return list(read_sources(sources, Reading("hub"), "data.train").rows)


def refused(call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value


def test_all_published_tasks_except_two_have_a_dataset() -> None:
    published = {*SUITES["commonsense"], *SUITES["math"]}
    assert published - set(HUB_TASKS) == {"AddSub", "SingleEq"}
    assert set(HUB_TASKS) == set(RECORDS) <= published


@pytest.mark.parametrize("task", RECORDS)
def test_a_record_becomes_the_published_row(task: str) -> None:
    record, expected = RECORDS[task]
    assert HUB_TASKS[task].test_row(record) == expected


@pytest.mark.parametrize("task", RECORDS)
def test_training_rows_differ_only_in_the_form_of_numbers(task: str) -> None:
    record, expected = RECORDS[task]
    answer = expected["answer"].removesuffix(".0")
    assert HUB_TASKS[task].row(record) == {**expected, "answer": answer}


@pytest.mark.parametrize("task", RECORDS)
def test_published_test_rows_are_reproduced_to_the_byte(data_dir: Path, task: str) -> None:
    """Math outputs are not compared, because a language model wrote them."""
    rows = json.loads((data_dir / task / "test.json").read_text(encoding="utf-8"))
    fields = ["instruction", "input", "answer"] + ["output"] * (task in SUITES["commonsense"])
    assert len(rows) > 100
    for row in rows:
        made = HUB_TASKS[task].test_row(parse(task, row))
        assert {name: made[name] for name in fields} == {name: row[name] for name in fields}


def test_published_training_rows_are_reproduced_to_the_byte(data_dir: Path) -> None:
    file = data_dir.parent / "ft-training_set" / "commonsense_15k.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert len(rows) == 15000
    for row in rows:
        task = FORMATS[row["instruction"].rpartition("Answer format: ")[2]]
        assert HUB_TASKS[task].row(parse(task, row)) == row


@pytest.mark.parametrize("task", ["ARC-Easy", "openbookqa"])
@pytest.mark.parametrize("labels", ["ABCD", "1234", "DCBA"])
def test_the_answer_is_found_by_its_label(task: str, labels: str) -> None:
    record = dict(RECORDS[task][0])
    record["choices"] = {"text": ["p", "q", "r", "s"], "label": list(labels)}
    record["answerKey"] = labels[1]
    assert HUB_TASKS[task].row(record)["answer"] == "answer2"


def test_a_body_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    record = {**RECORDS["SVAMP"][0], "Body": "Ann has 8 pens."}
    assert HUB_TASKS["SVAMP"].row(record)["instruction"] == "Ann has 8 pens. How many are left?"


@pytest.mark.parametrize("task", RECORDS)
def test_the_test_rows_of_a_task_are_read_from_its_dataset(hub: list[Asked], task: str) -> None:
    source = HUB_TASKS[task]
    expected = Row(**RECORDS[task][1])
    assert read_task_rows(task, "hub", builtin=False) == [expected] * len(source.test)
    assert hub == [(source.dataset, *part, source.revision) for part in source.test]


@pytest.mark.parametrize("task", [name for name, task in HUB_TASKS.items() if task.train])
def test_the_training_rows_of_a_task_are_read_from_its_dataset(hub: list[Asked], task: str) -> None:
    source = HUB_TASKS[task]
    expected = Row(**source.row(RECORDS[task][0]))
    found = training_rows(f"hub:{task}")
    assert found == [expected] * len(source.train)
    assert [row.position for row in found] == list(range(len(found)))
    assert hub == [(source.dataset, *part, source.revision) for part in source.train]


def test_no_split_is_used_for_both_training_and_test() -> None:
    for task in HUB_TASKS.values():
        assert not set(task.test) & set(task.train)
    tests = {config for config, _ in HUB_TASKS["winogrande"].test}
    assert tests < {config for config, _ in HUB_TASKS["winogrande"].train}


def test_files_are_still_found_with_test_rows_of_the_hub(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    assert training_rows(str(file)) == [Row("a", "b")]


def test_a_folder_that_is_named_hub_can_be_used(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "hub" / "dataset" / "boolq"
    folder.mkdir(parents=True)
    (folder / "test.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]))
    monkeypatch.chdir(tmp_path)
    assert read_task_rows("boolq", "./hub", builtin=False) == [Row("a", "b")]


def test_files_and_builtin_suites_are_local_sources() -> None:
    local = ["a.json", "builtin:tiny_arithmetic"]
    assert [is_local(s) for s in [*local, "hub:boolq", Source(hub="a/b")]] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("task", ["AddSub", "SingleEq"])
def test_the_error_for_a_task_without_a_dataset_lists_those_with_one(task: str) -> None:
    error = refused(lambda: read_task_rows(task, "hub", builtin=False))
    assert (error.field, error.got) == ("data.dir", task)
    assert all(name in error.rule for name in HUB_TASKS)
    assert error.fix == "set data.dir to a clone of LLM-Adapters"


@pytest.mark.parametrize("task", ["MultiArith", "SVAMP", "AddSub", "me/mine"])
def test_a_task_without_training_rows_is_an_error(task: str) -> None:
    error = refused(lambda: training_rows(f"hub:{task}"))
    assert (error.field, error.got) == ("data.train", task)
    assert "gsm8k" in error.rule
    assert "SVAMP" not in error.rule


def test_the_error_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no way there\nmany\nlines")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error = refused(lambda: read_task_rows("boolq", "hub", builtin=False))
    assert str(error) == (
        "data.dir: the hub dataset cannot be loaded (no way there); got 'google/boolq'. Fix: set"
        " data.dir to a clone of LLM-Adapters"
    )
    error = refused(lambda: training_rows("hub:boolq"))
    assert (error.field, error.got) == ("data.train", "google/boolq")
    assert "LLM-Adapters" in error.fix


@pytest.mark.parametrize(
    ("task", "changes", "reason"),
    [
        ("boolq", {"question": None, "answer": None}, "KeyError: None"),
        ("piqa", {"label": -1}, "no label of a text: -1"),
        ("hellaswag", {"label": ""}, "invalid literal for int()"),
        ("winogrande", {"answer": ""}, "invalid literal for int()"),
        ("ARC-Easy", {"answerKey": "F"}, "ValueError"),
        ("gsm8k", {"answer": "7"}, "no ####"),
    ],
)
def test_the_error_for_a_record_of_another_form_names_it(
    monkeypatch: pytest.MonkeyPatch, task: str, changes: dict[str, Any], reason: str
) -> None:
    records = [RECORDS[task][0], {**RECORDS[task][0], **changes}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: records)
    error = refused(lambda: read_task_rows(task, "hub", builtin=False))
    assert error.field.startswith(f"hub:{HUB_TASKS[task].dataset}, ")
    assert error.field.endswith(", row 1")
    assert reason in error.rule
    assert error.got == sorted(records[0])


@pytest.mark.parametrize("task", ["piqa", "winogrande"])
def test_datasets_on_disk_are_read_through_the_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str
) -> None:
    """The folders have the layouts of the hub: splits by folder (piqa) or by configuration."""
    folder, source = tmp_path / "dataset", HUB_TASKS[task]
    record, expected = RECORDS[task]
    parts = {*source.test, *source.train}
    for config, split in parts:
        file = folder / (config or "plain_text") / split / "0000.parquet"
        file.parent.mkdir(parents=True)
        datasets.Dataset.from_list([record] * (1 + len(split))).to_parquet(file)
    if task == "winogrande":
        (folder / "README.md").write_text(_card(parts))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    local = replace(source, dataset=str(folder), revision=None)
    monkeypatch.setitem(HUB_TASKS, task, local)

    tests = read_task_rows(task, "hub", builtin=False)
    assert tests == [Row(**expected)] * (1 + len("validation"))
    training = training_rows(f"hub:{task}")
    assert training == [Row(**expected)] * (1 + len("train")) * len(source.train)


def _card(parts: set[tuple[str | None, str]]) -> str:
    """The card of a dataset, which names its configurations."""
    configs = sorted({str(config) for config, _ in parts})
    files = {
        name: [
            {"split": split, "path": f"{name}/{split}/*.parquet"}
            for config, split in sorted(parts, key=str)
            if config == name
        ]
        for name in configs
    }
    listed = [{"config_name": name, "data_files": files[name]} for name in configs]
    return f"---\nconfigs: {json.dumps(listed)}\n---\n"
