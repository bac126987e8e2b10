"""What is done about failed trainings, on Ray Train's own exceptions; Ray is not started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from smt_ray.cluster import memory, train_failures
from smt_ray.cluster.memory import NoteDeaths, check_memory
from smt_ray.cluster.train_failures import TrainFailures
from smt_ray.errors import UserError

AWAY = OSError("AWS Error NETWORK_CONNECTION during CreateMultipartUpload operation")
NO_MEMORY = OutOfMemoryError("the node was running low on memory")


class Store:
    """The storage of a training; it counts how often it was waited for."""

    def __init__(self, is_local: bool = False) -> None:
        self.is_local, self.num_waits = is_local, 0

    def exists(self) -> bool:
        self.num_waits += 1
        return True


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(
        get=lambda value: value, exceptions=train_failures.ray.exceptions, train=None
    )
    for module in (train_failures, memory):
        monkeypatch.setattr(module, "ray", ray)
    monkeypatch.setattr(train_failures, "logs_folder", lambda: "/logs")
    monkeypatch.setattr(train_failures, "remove_placement_group", lambda place: None)


class Board:
    """The board, called without Ray."""

    def __init__(self) -> None:
        from smt_ray.cluster.board import Board as Real

        real = Real(None)
        for name in ("place", "died", "deaths", "hold"):
            setattr(self, name, SimpleNamespace(remote=getattr(real, name)))


def failures(store: Any = None, max_failures: int = 2) -> TrainFailures:
    return TrainFailures("training", max_failures, store or Store(), Board())


@pytest.mark.parametrize(
    "failure",
    [ActorDiedError(), WorkerHealthCheckFailedError("no answer", RuntimeError("timed out"))],
    ids=lambda failure: type(failure).__name__,
)
def test_ranks_that_were_lost_too_often_are_told_to_the_user(failure: Exception) -> None:
    with pytest.raises(UserError, match=r"resources.max_failures \(2\)") as raised:
        failures().recover(WorkerGroupError("failed", {0: failure}))
    assert "/logs" in raised.value.fix


def test_an_error_of_our_code_is_a_defect() -> None:
    error = WorkerGroupError("failed", {0: ActorDiedError(), 1: ValueError("a defect")})
    with pytest.raises(WorkerGroupError):
        failures().recover(error)


@pytest.mark.parametrize("failure", [NO_MEMORY, WorkerHealthCheckFailedError("lost", NO_MEMORY)])
def test_a_death_by_memory_is_one(failure: Exception) -> None:
    with pytest.raises(UserError, match="training: ran out of memory"):
        failures().recover(WorkerGroupError("failed", {0: failure}))


@pytest.mark.parametrize("error", [ControllerError(AWAY), WorkerGroupError("failed", {0: AWAY})])
def test_a_storage_that_was_away_is_waited_for(error: Exception) -> None:
    store = Store()
    found = failures(store, max_failures=2)
    found.recover(error)
    found.recover(error)
    assert store.num_waits == 2
    with pytest.raises(UserError, match="max_failures"):
        found.recover(error)


def test_a_local_disk_is_never_away() -> None:
    with pytest.raises(WorkerGroupError):
        failures(Store(is_local=True)).recover(WorkerGroupError("failed", {0: AWAY}))


def test_a_lost_controller_is_started_again_for_some_times() -> None:
    found = failures(max_failures=1)
    found.recover(ActorDiedError())
    with pytest.raises(UserError, match="max_failures"):
        found.recover(ActorDiedError())


def test_a_place_that_other_work_took_is_waited_for_again() -> None:
    error = ControllerError(WorkerGroupStartupTimeoutError(2))
    found = failures()
    for _ in range(4):
        found.recover(error)
    with pytest.raises(UserError):
        found.recover(error)


def test_the_second_death_of_ranks_by_memory_ends_the_next_ranks() -> None:
    board = Board()
    note = NoteDeaths("training", board)
    note.after_exception(None, {0: ActorDiedError()})
    note.after_exception(None, {0: WorkerHealthCheckFailedError("lost", NO_MEMORY), 1: NO_MEMORY})
    check_memory("training", board)
    note.after_exception(None, {1: NO_MEMORY})
    check_memory("warmup", board)
    with pytest.raises(UserError, match="training: ran out of memory"):
        check_memory("training", board)
