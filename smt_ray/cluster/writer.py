"""The writer of tracking: a zero-CPU actor beside the driver, and the only writer of a store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ray

from smt_ray.cluster.board import beside_the_driver
from smt_ray.reporting.text.progress import say
from smt_ray.tracking.connect import TrackerSettings, open_tracker
from smt_ray.tracking.records import Record
from smt_ray.tracking.replay import RunSnapshot, RunStart, begin, replay
from smt_ray.tracking.uris import redact


@dataclass(frozen=True)
class Sent:
    """What became of a run that was sent.

    Attributes:
        complete: Whether the store has everything.
        error: Why it has not, in one line.
        run_id: The tracker's id of the run, if known.
        url: The page of the run, if known.
    """

    complete: bool
    error: str = ""
    run_id: str | None = None
    url: str | None = None


class Writer:
    """The tracked run, within the actor.

    Args:
        settings: Where the run is tracked.
    """

    def __init__(self, settings: TrackerSettings) -> None:
        self._tracker = open_tracker(settings)

    def start_run(self, start: RunStart) -> str | None:
        """Starts or continues the run; returns its id if the store answers in time."""
        return begin(self._tracker, start)

    def records(self, records: list[Record]) -> None:
        """Adds records."""
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
    """A run's tracking as its driver sees it: nothing here raises or holds up the run.

    Args:
        settings: Where the run is tracked; None without tracking.
        resend: How the user sends what the store did not take, for the warning.

    Attributes:
        writer: The actor's handle, for the board; None without tracking.
    """

    def __init__(self, settings: TrackerSettings | None, resend: str) -> None:
        self.writer: Any = beside_the_driver(Writer, settings) if settings else None
        self._resend = resend
        self._started: Any = None

    def start(self, start: RunStart) -> None:
        """Starts the run without waiting: creating a store takes seconds."""
        if self.writer is not None:
            self._started = self.writer.start_run.remote(start)

    @property
    def run_id(self) -> str | None:
        """The tracker's id of the started run, which is waited for; None without tracking."""
        found: str | None = None if self._started is None else ray.get(self._started)
        return found

    def finish(self, snapshot: AbstractContextManager[RunSnapshot], timeout: float) -> Sent | None:
        """Sends what the run left on disk; says so if the store does not take all of it.

        Args:
            snapshot: Opens what is sent; its files can be read while it is open.
            timeout: The most seconds to wait.

        Returns:
            None without tracking.
        """
        if self.writer is None:
            return None
        try:
            with snapshot as opened:
                sent: Sent = ray.get(self.writer.finish.remote(opened, timeout))
        except Exception as error:  # whatever it is, the run itself is done
            sent = Sent(False, str(error).strip().rpartition("\n")[2])
        if not sent.complete:
            say(
                f"WARNING tracking: MLflow did not take everything ({sent.error}); nothing is"
                f" lost: {self._resend}"
            )
        return sent
