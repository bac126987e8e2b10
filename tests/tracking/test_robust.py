"""The robust tracker never fails or slows a run, whatever its store does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smt_ray.documents.run import Record
from smt_ray.errors import UserError
from smt_ray.tracking.protocol import RejectedError, RunStart
from smt_ray.tracking.records import make_record
from smt_ray.tracking.replay import RunSnapshot, replay
from smt_ray.tracking.robust import RobustTracker


class Store:
    """A tracker in memory, whose next calls, or all calls, can be made to fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.tries = 0
        self.failures: list[Exception] = []
        self.down = False
        self.gate = threading.Event()
        self.gate.set()

    def start_run(self, start: RunStart) -> str:
        self._take("start_run", start.name, start.run_id)
        return "id-1"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: self._take(name, *args)

    def _take(self, *call: Any) -> None:
        self.tries += 1
        self.gate.wait(10)
        if self.down:
            raise ConnectionError("http://u:secret@host refused")
        if self.failures:
            raise self.failures.pop(0)
        self.calls.append(call)

    def steps(self) -> list[int]:
        sent = [call[1] for call in self.calls if call[0] == "log_records"]
        return [record["step"] for batch in sent for record in batch]


def _record(step: int) -> Record:
    return make_record(step, {"x": step}, time_ms=step)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def robust(store: Store) -> Iterator[RobustTracker]:
    tracker = RobustTracker(lambda: store, retry_seconds=0.4, probe_seconds=0.0)
    yield tracker
    store.gate.set()
    tracker.close(10)


def test_calls_arrive_in_order_and_nothing_is_lost(robust: RobustTracker, store: Store) -> None:
    assert robust.start_run(RunStart(name="a", params={"p": 1})) == "id-1"
    robust.log_artifact("table.md")
    robust.log_records([_record(0)])
    robust.log_artifacts("folder", "adapter")
    robust.end_run("FAILED")
    assert robust.flush(5)
    names = [call[0] for call in store.calls]
    assert names == ["start_run", "log_artifact", "log_records", "log_artifacts", "end_run"]
    assert (robust.lost, robust.healthy) == (0, True)


def test_callers_do_not_wait_and_waiting_records_are_sent_in_one_call(
    robust: RobustTracker, store: Store
) -> None:
    robust.start_run(RunStart(name="a"))
    store.gate.clear()
    for step in range(100):
        robust.log_records([_record(step)])
    assert store.steps() == [], "the store still holds the first call"
    assert not robust.flush(0.05)
    store.gate.set()
    assert robust.flush(5)
    assert store.steps() == list(range(100))
    assert sum(call[0] == "log_records" for call in store.calls) <= 2


def test_a_temporary_failure_is_tried_again_without_a_warning(
    robust: RobustTracker, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    robust.start_run(RunStart(name="a"))
    store.failures = [TimeoutError("slow")]
    robust.log_artifacts("folder")
    assert robust.flush(5)
    assert store.calls[-1] == ("log_artifacts", "folder", None)
    assert _warnings(caplog) == []


def test_a_dead_store_causes_one_warning_and_lost_calls_are_counted(
    robust: RobustTracker, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    robust.start_run(RunStart(name="smt-a"))
    store.down = True
    for _ in range(5):
        robust.log_artifacts("folder")
    assert not robust.flush(5)
    assert (robust.lost, robust.healthy) == (5, False)
    (warning,) = _warnings(caplog)
    assert "smt-ray log smt-a" in warning
    assert "secret" not in warning


def test_a_dead_store_is_left_alone_between_probes(store: Store) -> None:
    robust = RobustTracker(lambda: store, retry_seconds=0.0, probe_seconds=1000.0)
    robust.start_run(RunStart(name="a"))
    store.down = True
    tries = store.tries
    for _ in range(50):
        robust.log_artifacts("folder")
    robust.close(5)
    assert store.tries - tries == 1


def test_records_of_an_outage_are_sent_when_the_store_is_back(
    robust: RobustTracker, store: Store
) -> None:
    robust.start_run(RunStart(name="a"))
    store.down = True
    robust.log_records([_record(0), _record(1)])
    assert not robust.flush(5)
    store.down = False
    robust.log_artifacts("folder")
    assert robust.flush(5)
    assert store.steps() == [0, 1]
    assert (robust.lost, robust.healthy) == (0, True)


def test_the_oldest_records_are_dropped_and_counted(store: Store) -> None:
    robust = RobustTracker(lambda: store, retry_seconds=0.0, probe_seconds=0.0, max_waiting=3)
    robust.start_run(RunStart(name="a"))
    store.down = True
    robust.log_records([_record(step) for step in range(5)])
    robust.flush(5)
    store.down = False
    robust.log_records([_record(5)])
    robust.close(5)
    assert store.steps() == [3, 4, 5]
    assert robust.lost == 3, "0 and 1 at once, 2 when 5 came"


def test_a_run_that_could_not_be_started_is_started_when_the_store_is_back(
    robust: RobustTracker, store: Store
) -> None:
    store.down = True
    assert robust.start_run(RunStart(name="a")) is None
    robust.log_records([_record(0)])
    assert not robust.flush(5)
    store.down = False
    robust.log_records([_record(1)])
    assert robust.flush(5)
    assert [call[0] for call in store.calls] == ["start_run", "log_records"]
    assert (robust.run_id, store.steps()) == ("id-1", [0, 1])


def test_a_refusal_is_not_tried_again_and_stops_nothing_else(
    robust: RobustTracker, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    robust.start_run(RunStart(name="a"))
    store.failures = [RejectedError("no such file")]
    robust.log_artifact("gone")
    robust.log_artifacts("folder")
    assert not robust.flush(5)
    assert (robust.lost, robust.healthy) == (1, True)
    assert [call[0] for call in store.calls] == ["start_run", "log_artifacts"]
    assert len(_warnings(caplog)) == 1
    assert robust.flush(5), "the loss was told by the flush before"


def test_a_mistake_in_the_config_reaches_the_user() -> None:
    def open_tracker() -> Any:
        raise UserError("tracking.uri", "must start with http", got="ftp://x")

    with pytest.raises(UserError, match=r"tracking\.uri"):
        RobustTracker(open_tracker).start_run(RunStart(name="a"))


def test_a_replay_after_an_outage_continues_and_completes_the_same_run(
    robust: RobustTracker, store: Store, make_snapshot: Callable[..., RunSnapshot]
) -> None:
    robust.start_run(RunStart(name="smt-a", key="k"))
    store.down = True
    robust.log_artifacts("adapter")
    assert not robust.flush(5)
    store.down = False
    assert replay(robust, make_snapshot()) == "id-1"
    assert robust.flush(5)
    assert store.calls[1] == ("start_run", "smt-a", "id-1")
    assert [call[0] for call in store.calls[2:]] == [
        "log_missing_records",
        "log_records",  # the final metrics
        "log_dataset",
        "log_table",
        "log_artifacts",
        "log_artifact",
        "end_run",
    ]


def test_waiting_for_a_silent_store_ends_without_an_answer(
    robust: RobustTracker, store: Store
) -> None:
    store.gate.clear()
    assert robust.start_run(RunStart(name="a"), 0.1) is None
    assert not robust.flush(0.1)
    assert not store.gate.is_set(), "both came back while the store was still silent"
