"""Claims about the end of a search's or a comparison's own run in MLflow; Ray is not started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RaySystemError

from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.grid import parent as parent_run
from smt_ray.grid.parent import ParentRun
from tests.runs import QUICK

SENT = {"sent": True, "error": ""}
LOST = [ActorDiedError(), RaySystemError("Ray has not been started yet")]


class Writer:
    """Takes the writer's place: a call is what it comes to, or what getting that raises."""

    def __init__(self, end: dict[str, Any] | Exception) -> None:
        self.start_run = SimpleNamespace(remote=lambda start: "run id")
        self.finish = SimpleNamespace(remote=self._finish)
        self.snapshots: list[Any] = []
        self._end = end

    def _finish(self, snapshot: Any, timeout: float) -> dict[str, Any] | Exception:
        self.snapshots.append(snapshot)
        return self._end


def get(found: Any) -> Any:
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(parent_run, "say", lines.append)
    monkeypatch.setattr(parent_run, "ray", SimpleNamespace(get=get))
    return lines


def end(monkeypatch: pytest.MonkeyPatch, storage: Path, writer: Writer) -> None:
    monkeypatch.setattr(parent_run, "make_writer", lambda tracker: writer)
    run = {key: value for key, value in QUICK.items() if key != "name"} | {"storage": str(storage)}
    space = {"training.learning_rate": {"grid_search": [1e-3, 2e-3]}}
    config = validate_section(SearchConfig, {"name": "mine", "run": run, "space": space})
    parent = ParentRun(config, "searches/mine", config.make_run({"training.learning_rate": 1e-3}))
    parent.end("FINISHED", {"best/loss": 1.0})


def test_what_came_out_is_sent_without_a_word(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer = Writer(SENT)
    end(monkeypatch, tmp_path, writer)
    (snapshot,) = writer.snapshots
    assert (snapshot.run_id, snapshot.status) == ("run id", "FINISHED")
    assert snapshot.final_metrics == {"best/loss": 1.0}
    assert said == []


@pytest.mark.parametrize("loss", LOST, ids=lambda loss: type(loss).__name__)
def test_a_writer_that_is_lost_is_a_warning_that_says_what_to_do(
    loss: Exception, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    end(monkeypatch, tmp_path, Writer(loss))
    (line,) = said
    assert line.startswith("WARNING tracking: MLflow did not take everything (")
    assert "start the same search again" in line


def test_a_store_that_is_away_is_the_same_warning(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    end(monkeypatch, tmp_path, Writer({"sent": False, "error": "refused"}))
    (line,) = said
    assert "(refused)" in line
    assert "start the same search again" in line
