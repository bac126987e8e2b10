"""Claims about the check-data command: its table, its file and its errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from smt_ray import cli

QUESTIONS = ["Ann has 3 pens . How many ?", "Two and two?", "Three and three?"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """The config of a run whose training rows hold half of the test questions of SVAMP."""
    training = [{"instruction": q, "output": "!", "answer": "4"} for q in QUESTIONS]
    write(tmp_path / "train.json", training)
    asked = [("Ann has 3 pens. How many?", "3"), ("two and two", "4.0"), ("New?", "4"), ("?", "4")]
    for task, rows in {"SVAMP": asked, "gsm8k": asked[2:]}.items():
        write(
            tmp_path / "dataset" / task / "test.json",
            [{"instruction": q, "output": "!", "answer": answer} for q, answer in rows],
        )
    return [f"data.dir={tmp_path}", "data.train=[train.json]", "data.max_rows=null",
            "data.validation_rows=0", "evaluation.base_likelihood=false"]  # fmt: skip


def test_questions_in_the_training_rows_are_counted_by_task(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    file = tmp_path / "found.json"
    command = ["smt-ray", "check-data", *arguments, "evaluation.tasks=[SVAMP, gsm8k]"]
    monkeypatch.setattr(sys, "argv", [*command, "--json", str(file)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["SVAMP", "4", "2", "50.0%", "1", "0"] in lines
    assert ["gsm8k", "2", "0", "0.0%", "0", "-"] in lines
    checked = json.loads(file.read_text())
    assert checked["num_training_rows"] == 3
    assert checked["tasks"]["SVAMP"]["found"] == [
        {"index": 0, "position": 0, "same_answer": False},
        {"index": 1, "position": 1, "same_answer": True},
    ]


def test_rows_that_are_there_twice_are_counted_without_tasks(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    held = [{"instruction": "ann has 3 pens how many", "output": "!"}, {"text": "New."}]
    write(tmp_path / "held.json", held)
    command = ["smt-ray", "check-data", *arguments, "data.validation=[held.json]"]
    monkeypatch.setattr(sys, "argv", [*command, "evaluation.tasks=[]"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "training the same 3 0 0 -" in lines
    assert f"validation training 2 0 1 {tmp_path}/held.json, row 0" in lines
