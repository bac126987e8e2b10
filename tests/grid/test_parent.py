"""Claims about the tracked run of a comparison or search; Ray is not started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RaySystemError

from smt_ray.artifacts.layout import search_folder
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster import writer as cluster_writer
from smt_ray.cluster.writer import Sent
from smt_ray.config.load import validate_section
from smt_ray.config.search import SearchConfig
from smt_ray.grid.folder import GroupFolder
from smt_ray.grid.parent import ParentRun
from smt_ray.tracking.replay import RunSnapshot
from tests.runs import QUICK

LOST = [ActorDiedError(), RaySystemError("Ray has not been started yet")]
RUN = {key: value for key, value in QUICK.items() if key != "name"}
SPACE = {"training.learning_rate": {"grid_search": [1e-3, 2e-3]}}


class Writer:
    """Stands in for the writer's actor: a call returns its result, or what ``get`` raises."""

    def __init__(self, answer: Sent | Exception) -> None:
        self.start_run = SimpleNamespace(remote=lambda start: "run id")
        self.finish = SimpleNamespace(remote=self._finish)
        self.snapshots: list[RunSnapshot] = []
        self._answer = answer

    def _finish(self, snapshot: RunSnapshot, timeout: float) -> Sent | Exception:
        self.snapshots.append(snapshot)
        return self._answer


def get(found: Any) -> Any:
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that are printed; ``ray.get`` returns what it is given."""
    lines: list[str] = []
    monkeypatch.setattr(cluster_writer, "say", lines.append)
    monkeypatch.setattr(cluster_writer, "ray", SimpleNamespace(get=get))
    return lines


def start(monkeypatch: pytest.MonkeyPatch, storage: Path, writer: Writer) -> ParentRun:
    monkeypatch.setattr(cluster_writer, "beside_the_driver", lambda *_: writer)
    values = {"name": "mine", "run": {**RUN, "storage": str(storage)}, "space": SPACE}
    config = validate_section(SearchConfig, values)
    folder = GroupFolder(Storage(str(storage)), search_folder("mine"))
    return ParentRun("search", config, folder, config.make_run({}).tracking)


def test_results_and_files_are_sent_silently(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writer = Writer(Sent(complete=True))
    with start(monkeypatch, tmp_path, writer) as parent:
        assert parent.run_id == "run id"
        parent.folder.write_text("notes.md", "text")
        parent.end("FINISHED", {"best/loss": 1.0}, "# Title\n\nThe table")
    (snapshot,) = writer.snapshots
    assert (snapshot.name, snapshot.run_id, snapshot.status) == (
        "mine (search)", "run id", "FINISHED",
    )  # fmt: skip
    assert snapshot.final_metrics == {"best/loss": 1.0}
    assert snapshot.artifacts == [(str(tmp_path / "searches/mine/notes.md"), None)]
    assert snapshot.tags["description"] == "The table"
    assert said == []


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("why"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_an_exception_ends_the_run_and_is_raised_again(
    error: BaseException, status: str, said: list[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    writer = Writer(Sent(complete=True))
    with pytest.raises(type(error)), start(monkeypatch, tmp_path, writer):
        raise error
    assert [snapshot.status for snapshot in writer.snapshots] == [status]


@pytest.mark.parametrize("loss", LOST, ids=lambda loss: type(loss).__name__)
def test_a_lost_writer_is_a_warning_that_says_what_to_do(
    loss: Exception, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start(monkeypatch, tmp_path, Writer(loss)).end("FINISHED")
    (line,) = said
    assert line.startswith("WARNING tracking: MLflow did not take everything (")
    assert "start the same search again" in line


def test_a_store_that_does_not_answer_is_the_same_warning(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start(monkeypatch, tmp_path, Writer(Sent(complete=False, error="refused"))).end("FINISHED")
    (line,) = said
    assert "(refused)" in line
    assert "start the same search again" in line
