"""Claims about ``evaluation.lm_eval``: contents count, and every mistake is found at once."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.evaluation.harness.tasks import HarnessTasks, read_harness

FUNCTION = "def ask(doc):\n    return doc['question'] + {text!r}\n"


def config(*entries: str | Path, **settings: Any) -> RunConfig:
    names = ", ".join(f'"{entry}"' for entry in entries)
    more = [f"evaluation.{key}={value}" for key, value in settings.items()]
    return load_config(None, [f"evaluation.lm_eval=[{names}]", *more])


def read(*entries: str | Path, **settings: Any) -> HarnessTasks:
    found = read_harness(config(*entries, **settings))
    assert found is not None
    return found


def with_function(file: Path, text: str) -> Path:
    """The same task, whose question comes from a function in a file beside it."""
    (file.parent / "asked.py").write_text(FUNCTION.format(text=text))
    lines = [line for line in file.read_text().splitlines() if "doc_to_text" not in line]
    file.write_text("\n".join([*lines, "doc_to_text: !function asked.ask"]))
    return file


def test_without_tasks_nothing_is_read() -> None:
    assert read_harness(config()) is None


def test_the_place_of_a_file_does_not_count_and_its_contents_do(
    make_task: Any, tmp_path: Path
) -> None:
    file = with_function(make_task(), "?")
    before = read(file).digests
    assert set(before) == {"choice"}
    shutil.copytree(file.parent, tmp_path / "elsewhere")
    copy = tmp_path / "elsewhere" / file.name
    copy.write_text(copy.read_text().replace(str(file.parent), str(copy.parent)) + "\n# a remark\n")
    assert read(copy).digests != before  # the place of the rows is a part of the definition
    copy.write_text(file.read_text() + "\n# a remark\n")
    assert read(copy).digests == before
    other = with_function(make_task(folder="third"), "!")
    other.write_text(other.read_text().replace(str(other.parent), str(file.parent)))
    assert read(other).digests != before


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text(file.read_text().replace("acc_norm", "acc_mutual_info")),
        lambda file: (file.parent / "rows.jsonl").write_text(
            (file.parent / "rows.jsonl").read_text().replace("plus", "and")
        ),
    ],
    ids=["definition", "rows"],
)
def test_what_a_task_asks_and_how_it_is_scored_counts(make_task: Any, change: Any) -> None:
    file = make_task()
    before = read(file).digests
    change(file)
    file.touch()
    assert read(file).digests != before


def test_rows_beyond_the_limit_do_not_count(make_task: Any) -> None:
    limited = read(make_task(num_rows=12), max_rows=5)
    assert (limited.limit, limited.num_rows) == (5, {"choice": 5})
    assert read(make_task(num_rows=12), max_rows=50).num_rows == {"choice": 12}
    few = read(make_task(num_rows=12), max_rows=5).digests
    assert few != read(make_task(num_rows=12)).digests


def test_files_are_included_from_the_folder_of_the_file(make_task: Any, tmp_path: Path) -> None:
    file = with_function(make_task(), "?")
    short = file.parent / "short.yaml"
    short.write_text("include: choice.yaml\ntask: short\nnum_fewshot: 0\n")
    assert set(read(short).digests) == {"short"}


def test_generated_tokens_are_known(make_task: Any) -> None:
    assert read(make_task("text")).num_new_tokens == {"text": 12}
    assert read(make_task("choice")).num_new_tokens == {"choice": 0}


def refused(*entries: str | Path) -> UserError:
    with pytest.raises(UserError) as caught:
        read(*entries)
    assert caught.value.field == "evaluation.lm_eval"
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert refused("hellaswag").fix == "pip install 'smt-ray[lm-eval]'"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.yaml").rule == "must be an existing YAML file"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("task: [", "while parsing"),
        ("- a", "Expected YAML dict"),
        ("include: none.yaml\ntask: a", "No such file"),
        ("task: a\ndataset_path: json\ndoc_to_text: !function asked.ask", "asked"),
        ("task: a\ndataset_path: json\noutput_type: magic", "magic"),
    ],
    ids=["syntax", "list", "include", "function", "output type"],
)
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    error = refused(file)
    assert error.rule.startswith("cannot be loaded (")
    assert reason in error.rule
    assert error.got == str(file)


def test_the_bad_one_of_several_files_is_named(make_task: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("task: [")
    assert refused(make_task(), tmp_path / "bad.yaml").got == str(tmp_path / "bad.yaml")


def test_a_task_that_runs_code_of_the_model_is_refused(make_task: Any) -> None:
    assert "runs code that the model writes" in refused(make_task(more="unsafe_code: true\n")).rule


def test_a_name_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.lm_eval.*once"):
        config("hellaswag", "hellaswag")


@pytest.mark.slow
def test_an_unknown_name_is_refused_before_any_row_is_read() -> None:
    error = refused("hellaswagg")
    assert (error.got, error.rule) == (
        "hellaswagg",
        "must be a task, group or tag of lm-evaluation-harness, or a YAML file",
    )


@pytest.mark.slow
def test_a_group_of_files_has_its_own_average(make_task: Any) -> None:
    first = make_task("choice")
    make_task("text")
    group = first.parent / "both.yaml"
    group.write_text("group: both\ntask: [choice, text]\n")
    assert set(read(group).digests) == {"both", "choice", "text"}
