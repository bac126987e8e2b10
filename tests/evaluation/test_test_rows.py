"""Claims about test rows: those of one's own are read, checked and named like the published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.evaluation.retention import read_retention
from smt_ray.evaluation.test_rows import read_tests

CHAT = {"messages": [
    {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "3"},
    {"role": "user", "content": "No."}, {"role": "assistant", "content": "4"},
]}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = {
        "test.jsonl": [CHAT, {"question": "3+3?", "answer": "It is 6."}],
        "text.jsonl": [{"text": "A document."}, {"text": "Another one."}],
    }
    for name, content in rows.items():
        (tmp_path / name).write_text("\n".join(map(json.dumps, content)))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "text.jsonl").write_text(json.dumps({"text": "More."}))
    return tmp_path


def make(folder: Path, *tasks: Any, **given: Any) -> RunConfig:
    evaluation = {"tasks": list(tasks), "base_likelihood": False, **given}
    return load_config(None, [f"data.dir={folder}", f"evaluation={json.dumps(evaluation)}"])


def own(**given: Any) -> dict[str, Any]:
    return {"name": "sums", "rows": "test.jsonl", "answer": "number", **given}


def test_rows_of_ones_own_have_the_answer_that_is_expected(folder: Path) -> None:
    test = read_tests(make(folder, "tiny_arithmetic", own()))["sums"]
    assert [row.answer for row in test.rows] == ["4", "6."]
    assert (test.task.name, test.max_new_tokens) == ("sums", 256)
    assert test.rows[0].messages


def test_the_number_of_rows_and_of_new_tokens_can_be_limited(folder: Path) -> None:
    limited = make(folder, own(), max_rows=1, max_new_tokens=7)
    test = read_tests(limited)["sums"]
    assert (len(test.rows), test.max_new_tokens) == (1, 7)
    assert (
        read_tests(make(folder, own(max_new_tokens=9), max_new_tokens=7))["sums"].max_new_tokens
        == 9
    )


def test_a_row_without_a_possible_answer_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"test\.jsonl, row 0, field 'answer': must be one of"):
        read_tests(make(folder, own(answer="labels", labels=["5", "6"])))


def test_likelihood_needs_labels(folder: Path) -> None:
    read_tests(make(folder, own(answer="labels", labels=["4", "6"]), base_likelihood=True))
    with pytest.raises(UserError, match=r"evaluation\.base_likelihood: sums has no closed set"):
        read_tests(make(folder, own(), base_likelihood=True))


def test_the_fingerprint_changes_with_what_is_asked_and_with_no_name(folder: Path) -> None:
    def digest(**given: Any) -> str:
        entry = own(**given)
        return read_tests(make(folder, entry))[entry["name"]].digest

    same = [own(), own(name="other"), own(max_new_tokens=9)]
    others = [own(answer="exact"), own(answer="regex", pattern="4|6"), own(prompt="clean")]
    assert len({digest(**given) for given in same}) == 1
    assert len({digest(**given) for given in [own(), *others]}) == 1 + len(others)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"answer": "labels"}, "labels are needed"),
        ({"labels": ["4"]}, "labels are needed"),
        ({"answer": "regex"}, "pattern is needed"),
        ({"answer": "regex", "pattern": "("}, "must be a regular expression"),
        ({"answer": "labels", "labels": ["a", "A"]}, "differ in more than case"),
        ({"answer": "regex", "pattern": "a{99999999999}"}, "must be a regular expression"),
        ({"answer": "regex", "pattern": "a*"}, "must not match an empty text"),
        ({"answer": "sum"}, "Input should be"),
        ({"name": "a/b"}, "names files"),
        ({"row": "x"}, "unknown key"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(
    folder: Path, given: dict[str, Any], rule: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(folder, own(**given))
    assert caught.value.field.startswith("evaluation.tasks.0")
    assert rule in str(caught.value)


def test_two_tasks_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="different names, not twice sums"):
        make(folder, own(), own())


def test_texts_are_named_by_their_files(folder: Path) -> None:
    config = make(
        folder, retention=["text.jsonl", {"path": "more/text.jsonl"}, "builtin:tiny_arithmetic"]
    )
    found = read_retention(config)
    assert list(found) == ["text", "text_2", "tiny_arithmetic"]
    assert [row.output for row in found["text_2"]] == ["More."]
