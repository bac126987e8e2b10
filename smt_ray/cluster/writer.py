"""The writer of tracking: an actor on the driver's node, and the only process that sends a run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ray

from smt_ray.cluster.board import beside_the_driver
from smt_ray.documents.run import Record
from smt_ray.reporting.text.progress import say
from smt_ray.tracking.connect import TrackerSettings, open_tracker
from smt_ray.tracking.protocol import RunStart
from smt_ray.tracking.replay import RunSnapshot, replay
from smt_ray.tracking.uris import redact


@dataclass(frozen=True)
class Sent:
    """The result of sending a run.

    Attributes:
        complete: Whether the store has everything.
        error: The reason if it has not, in one line.
    """

    complete: bool
    error: str = ""
    run_id: str | None = None
    url: str | None = None


class Writer:
    """The class of the actor: it owns the tracker of one run."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._tracker = open_tracker(settings)

    def start_run(self, start: RunStart) -> str | None:
        """Starts or continues the run; returns its id, or None if the store does not answer."""
        return self._tracker.start_run(start)

    def records(self, records: list[Record]) -> None:
        """Hands records to the tracker."""
        self._tracker.log_records(records)

    def finish(self, snapshot: RunSnapshot, timeout: float) -> Sent:
        """Sends what the run left on disk, waiting at most ``timeout`` seconds."""
        replay(self._tracker, snapshot)
        sent = self._tracker.close(timeout)
        return Sent(
            sent and not self._tracker.lost,
            redact(str(self._tracker.last_error or "")),
            self._tracker.run_id,
            self._tracker.run_url(),
        )


class TrackedRun:
    """The tracking of a run, as its driver sees it. A tracker that fails never fails the run.

    Args:
        settings: The settings of the tracker; None without tracking.
        resend: The sentence that says how to send what the store did not take.

    Attributes:
        writer: The handle of the actor, for the board; None without tracking.
    """

    def __init__(self, settings: TrackerSettings | None, resend: str) -> None:
        self.writer: Any = beside_the_driver(Writer, settings) if settings else None
        self._resend = resend
        self._started: Any = None

    def start(self, start: RunStart) -> None:
        """Starts or continues the run without waiting, since creating a store takes seconds."""
        if self.writer is not None:
            self._started = self.writer.start_run.remote(start)

    @property
    def run_id(self) -> str | None:
        """The tracker's id of the run, once it is started; None if the store does not answer."""
        if self._started is None:
            return None
        try:
            found: str | None = ray.get(self._started)
        except Exception:  # `finish` tells the user
            return None
        return found

    def finish(self, snapshot: AbstractContextManager[RunSnapshot], timeout: float) -> Sent | None:
        """Sends everything on disk for the run; None without tracking.

        It waits at most ``timeout`` seconds, and warns if the store does not take all of it.
        """
        if self.writer is None:
            return None
        try:
            with snapshot as opened:
                sent: Sent = ray.get(self.writer.finish.remote(opened, timeout))
        except Exception as error:  # the run itself is done, whatever it is
            sent = Sent(False, redact(str(error).strip().rpartition("\n")[2]))
        if not sent.complete:
            reason = sent.error or f"no answer within {timeout:g} s"
            say(
                f"WARNING tracking: MLflow did not take everything ({reason}); nothing is lost:"
                f" {self._resend}"
            )
        return sent
