"""Fixtures for refused commands: the command line, and runs and stages that look finished."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray import cli
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import load_config
from smt_ray.stages.plan import RunPlan, make_plan
from tests.cli.refusals import Refused, finish


@pytest.fixture(autouse=True)
def offline_and_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started before the error was found")

    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused; returns its error line without ``error: ``."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        assert end.value.code == 2
        assert "Traceback" not in captured.err + captured.out
        last = captured.err.rstrip("\n").split("\n")[-1]
        assert captured.err.count("error: ") == 1
        assert last.startswith("error: ")
        return last.removeprefix("error: ")

    return run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "kept"))


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[Any], str]:
    """Writes a file of training rows."""

    def write(content: Any) -> str:
        path = tmp_path / "rows.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.fixture
def plan(storage: Storage) -> RunPlan:
    return make_plan(load_config(None, [f"storage={storage.root}", "name=mine"]))


@pytest.fixture
def finished(plan: RunPlan) -> dict[str, str]:
    """All stages look finished: key of the stage -> its artifact."""
    files = {
        "tokens": "tokens.safetensors",
        "warmup": "score_table.safetensors",
        "selection": "selection.safetensors",
        "training": "adapter/adapter_model.safetensors",
    }
    return {key: finish(stage, files.get(key, "boolq.jsonl")) for key, stage in plan.stages.items()}


@pytest.fixture
def trained(plan: RunPlan, finished: dict[str, str]) -> RunFolder:
    """A run that looks trained."""
    run = RunFolder(plan.storage, "mine")
    run.update(config=plan.config.model_dump(mode="json"), semantic=plan.config.semantic_tree())
    run.add_stage("training", plan.training.name, seconds=1.0, reused=False)
    return run
