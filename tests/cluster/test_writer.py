"""The tracking of a run never fails the run, and says what the store did not take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from smt_ray.cluster import writer
from smt_ray.cluster.writer import Sent, TrackedRun, Writer
from smt_ray.tracking.connect import TrackerSettings
from smt_ray.tracking.protocol import RunStart
from smt_ray.tracking.records import make_record
from smt_ray.tracking.replay import RunSnapshot

SETTINGS = TrackerSettings("http://there:5000", "experiment", {})
START = RunStart(name="mine", key="storage/mine@1", started_ms=1)
SNAPSHOT = RunSnapshot(name="mine", key="storage/mine@1", started_ms=1, status="FINISHED")
RESEND = "smt-ray log mine sends it"


class Tracker:
    """Stands in for the tracker within the actor."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.run_id: str | None = None
        self.lost, self.takes_all = 0, True
        self.last_error: Exception | None = None

    def start_run(self, start: RunStart) -> str:
        self.calls.append("start_run")
        self.run_id = f"id of {start.name}"
        return self.run_id

    def close(self, timeout: float) -> bool:
        self.calls.append(f"close({timeout:g})")
        return self.takes_all

    def run_url(self) -> str:
        return "http://there/run"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: self.calls.append(name)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    tracker = Tracker()
    monkeypatch.setattr(writer, "open_tracker", lambda settings: tracker)
    return tracker


@pytest.fixture
def said(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages to the user. The actor runs in this process."""
    said: list[str] = []

    class Handle:
        def __init__(self, actor: Any) -> None:
            self._actor = actor

        def __getattr__(self, name: str) -> Any:
            return SimpleNamespace(remote=lambda *given: (getattr(self._actor, name), given))

    def get(task: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
        method, given = task
        return method(*given)

    monkeypatch.setattr(writer, "beside_the_driver", lambda actor, given: Handle(actor(given)))
    monkeypatch.setattr(writer, "ray", SimpleNamespace(get=get))
    monkeypatch.setattr(writer, "say", said.append)
    return said


@contextmanager
def snapshot() -> Iterator[RunSnapshot]:
    yield SNAPSHOT


@contextmanager
def unreadable() -> Iterator[RunSnapshot]:
    raise OSError("a remote traceback\nhttp://me:canary@there: no such file")
    yield SNAPSHOT


def test_the_actor_starts_a_run_and_sends_its_records_and_its_end(tracker: Tracker) -> None:
    actor = Writer(SETTINGS)
    assert actor.start_run(START) == "id of mine"
    actor.records([make_record(1, {"x": 1.0})])
    sent = actor.finish(SNAPSHOT, 3.0)
    assert sent == Sent(True, "", "id of mine", "http://there/run")
    assert tracker.calls == ["start_run", "log_records", "start_run", "end_run", "close(3)"]


@pytest.mark.parametrize(("lost", "takes_all"), [(1, True), (0, False)])
def test_the_actor_says_that_the_store_lacks_something_and_shows_no_password(
    tracker: Tracker, lost: int, takes_all: bool
) -> None:
    tracker.lost, tracker.takes_all = lost, takes_all
    tracker.last_error = ConnectionError("http://me:canary@there refused")
    sent = Writer(SETTINGS).finish(SNAPSHOT, 3.0)
    assert not sent.complete
    assert sent.error == "http://me:***@there refused"


def test_a_run_that_the_store_takes_is_sent_without_a_message(
    tracker: Tracker, said: list[str]
) -> None:
    tracked = TrackedRun(SETTINGS, RESEND)
    tracked.start(START)
    assert tracked.run_id == "id of mine"
    sent = tracked.finish(snapshot(), 3.0)
    assert sent == Sent(True, "", "id of mine", "http://there/run")
    assert said == []


def test_one_warning_says_how_to_send_what_the_store_did_not_take(
    tracker: Tracker, said: list[str]
) -> None:
    tracker.takes_all, tracker.last_error = False, ConnectionError("refused")
    tracked = TrackedRun(SETTINGS, RESEND)
    tracked.start(START)
    sent = tracked.finish(snapshot(), 3.0)
    assert sent is not None
    assert not sent.complete
    assert said == [
        "WARNING tracking: MLflow did not take everything (refused); nothing is lost:"
        f" {RESEND}"
    ]  # fmt: skip


def test_the_warning_about_a_silent_store_gives_the_time(tracker: Tracker, said: list[str]) -> None:
    tracker.takes_all = False
    TrackedRun(SETTINGS, RESEND).finish(snapshot(), 3.0)
    (line,) = said
    assert "(no answer within 3 s)" in line


def test_the_warning_about_an_unreadable_file_is_one_line(
    tracker: Tracker, said: list[str]
) -> None:
    sent = TrackedRun(SETTINGS, RESEND).finish(unreadable(), 3.0)
    assert sent == Sent(False, "http://me:***@there: no such file")
    (line,) = said
    assert "\n" not in line
    assert "canary" not in line
    assert RESEND in line


def test_an_actor_that_died_fails_nothing(
    tracker: Tracker, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_: Any) -> Any:
        raise ActorDiedError

    tracked = TrackedRun(SETTINGS, RESEND)
    monkeypatch.setattr(writer, "ray", SimpleNamespace(get=get))
    tracked.start(START)
    assert tracked.run_id is None
    sent = tracked.finish(snapshot(), 3.0)
    assert sent is not None
    assert not sent.complete
    assert len(said) == 1


def test_an_interrupt_is_not_swallowed(
    tracker: Tracker, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_: Any) -> Any:
        raise KeyboardInterrupt

    tracked = TrackedRun(SETTINGS, RESEND)
    tracked.start(START)
    monkeypatch.setattr(writer, "ray", SimpleNamespace(get=get))
    with pytest.raises(KeyboardInterrupt):
        tracked.finish(snapshot(), 3.0)


def test_without_tracking_nothing_is_started_or_sent(said: list[str]) -> None:
    tracked = TrackedRun(None, RESEND)
    tracked.start(START)
    assert tracked.writer is None
    assert tracked.run_id is None
    assert tracked.finish(unreadable(), 3.0) is None
    assert said == []
