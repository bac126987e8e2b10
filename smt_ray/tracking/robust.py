"""A tracker that never fails or slows a run: a background thread makes its calls.

While the store does not answer, records wait here until it does. Other calls are dropped and
counted. Everything is on disk, too, from where :func:`smt_ray.tracking.replay.replay` sends it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from smt_ray.documents.run import Dataset, Record, Status
from smt_ray.errors import UserError
from smt_ray.tracking.background import BackgroundCalls
from smt_ray.tracking.protocol import RejectedError, RunStart, Tracker
from smt_ray.tracking.uris import redact

logger = logging.getLogger("smt_ray.tracking")

_Call = Callable[[Tracker], object]
_FIRST_PAUSE_SECONDS = 0.25


class RobustTracker:
    """A :class:`~smt_ray.tracking.protocol.Tracker` of one run whose calls return at once.

    A call that fails is tried again for ``retry_seconds``. After that, the store counts as down:
    the user is warned once, calls are dropped, and one call is tried every ``probe_seconds``. A
    refusal (:class:`~smt_ray.tracking.protocol.RejectedError`) is not tried again.

    Args:
        open_tracker: The function that makes the actual tracker; the background thread calls it.
        retry_seconds: The time for which a call is tried again. A single try may take as long as
            the timeout of the client (10 s if a server accepts the connection and stays silent).
        probe_seconds: The time between tries while the store is down.
        max_waiting: The number of records that are kept while the store is down; the oldest are
            dropped first.

    Attributes:
        run_id: MLflow's id of the run; None until it is started.
        healthy: Whether the store answers; False while it counts as down.
        lost: The number of records and other calls that did not reach the store.
    """

    def __init__(
        self,
        open_tracker: Callable[[], Tracker],
        *,
        retry_seconds: float = 5.0,
        probe_seconds: float = 30.0,
        max_waiting: int = 100_000,
    ) -> None:
        self.run_id: str | None = None
        self.healthy = True
        self.lost = 0
        self.last_error: Exception | None = None
        self._open_tracker = open_tracker
        self._retry_seconds, self._probe_seconds = retry_seconds, probe_seconds
        self._max_waiting = max_waiting
        self._tracker: Tracker | None = None
        self._start: _Call | None = None  # made before any other call, until it succeeds
        self._run_name = "RUN"
        self._waiting: deque[Record] = deque()
        self._lock = threading.Lock()
        self._calls = BackgroundCalls("smt-ray-tracking")
        self._probe_at = 0.0
        self._lost_before_flush = 0
        self._warned: set[str] = set()

    def start_run(self, start: RunStart, wait_seconds: float = 20.0) -> str | None:
        """Starts or continues the run. This is the only call that waits.

        If the store does not answer, the run is started before the first call that succeeds.

        Args:
            wait_seconds: The most seconds to wait for the id; creating an sqlite store takes some.

        Returns:
            MLflow's id of the run; None if the store does not answer in time.

        Raises:
            UserError: The configuration is wrong, so no tracker can be opened.
        """
        answered = threading.Event()

        def call(tracker: Tracker) -> None:
            self.run_id = tracker.start_run(replace(start, run_id=start.run_id or self.run_id))

        self._run_name, self._start = start.name, call
        self._probe_at = 0.0
        self._submit(lambda tracker: None, loses=0, answered=answered)
        answered.wait(wait_seconds)
        if isinstance(self.last_error, UserError):
            raise self.last_error
        return self.run_id

    def log_records(self, records: Sequence[Record]) -> None:
        """Hands over records. Those that wait are sent in one call."""
        with self._lock:
            self._waiting.extend(records)
        self._drop_oldest()
        self._submit(self._send_waiting, loses=0)

    def log_missing_records(self, records: Sequence[Record]) -> None:
        """Hands over records, some of which the store may have."""
        copied = list(records)
        self._submit(lambda tracker: tracker.log_missing_records(copied), loses=len(copied))

    def log_dataset(self, dataset: Dataset) -> None:
        """Hands over the name of rows that the run read."""
        self._submit(lambda tracker: tracker.log_dataset(dataset))

    def log_artifact(self, path: str, artifact_path: str | None = None) -> None:
        """Hands over a local file, which must exist until :meth:`flush` returns."""
        self._submit(lambda tracker: tracker.log_artifact(path, artifact_path))

    def log_artifacts(self, directory: str, artifact_path: str | None = None) -> None:
        """Hands over a local folder, which must exist until :meth:`flush` returns."""
        self._submit(lambda tracker: tracker.log_artifacts(directory, artifact_path))

    def log_model(self, directory: str, name: str) -> None:
        """Hands over a model, whose folder must exist until :meth:`flush` returns."""
        self._submit(lambda tracker: tracker.log_model(directory, name))

    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Hands over a table."""
        copied = {name: list(values) for name, values in columns.items()}
        self._submit(lambda tracker: tracker.log_table(copied, artifact_file))

    def end_run(self, status: Status = "FINISHED", *, ended_ms: int | None = None) -> None:
        """Ends the run, after the records that still wait are sent."""
        ended = time.time_ns() // 1_000_000 if ended_ms is None else ended_ms
        self._submit(self._send_waiting, loses=0)
        self._submit(lambda tracker: tracker.end_run(status, ended_ms=ended))

    def flush(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds until every call is made or given up.

        Returns:
            Whether the store has everything that was handed over since the last flush.
        """
        idle = self._calls.wait(timeout)
        lost, self._lost_before_flush = self.lost - self._lost_before_flush, self.lost
        return idle and not lost and not self._waiting and self._start is None

    def run_url(self) -> str | None:
        """The page of the run; None if the store was never reached."""
        return getattr(self._tracker, "run_url", lambda: None)()

    def close(self, timeout: float) -> bool:
        """Flushes, then ends the background thread. The tracker can be used again afterwards."""
        complete = self.flush(timeout)
        self._calls.stop()
        return complete

    def _submit(
        self, call: _Call, *, loses: int = 1, answered: threading.Event | None = None
    ) -> None:
        """Hands a call over; ``answered`` is set when it is made or given up."""

        def make() -> None:
            try:
                if not self._run(call):
                    self._lose(loses)
            finally:
                if answered is not None:
                    answered.set()

        self._calls.submit(make)

    def _run(self, call: _Call) -> bool:
        """Tries a call until it succeeds, is refused or its time is over; whether it succeeded."""
        now = time.monotonic()
        if not self.healthy and now < self._probe_at:
            return False
        give_up_at = now + (self._retry_seconds if self.healthy else 0.0)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._attempt(call)
            except (RejectedError, UserError) as error:
                self._refused(error)
                return False
            except Exception as error:
                self.last_error = error
                if time.monotonic() + pause > give_up_at:
                    self._down(error)
                    return False
            else:
                self._up()
                return True
            time.sleep(pause)
            pause *= 2

    def _attempt(self, call: _Call) -> None:
        if self._tracker is None:
            self._tracker = self._open_tracker()
        start = self._start
        if start is not None:
            start(self._tracker)
            if self._start is start:
                self._start = None
        call(self._tracker)

    def _send_waiting(self, tracker: Tracker) -> None:
        with self._lock:
            batch = list(self._waiting)
            self._waiting.clear()
        if not batch:
            return
        try:
            tracker.log_records(batch)
        except RejectedError:
            self._lose(len(batch))
            raise
        except Exception:
            with self._lock:
                self._waiting.extendleft(reversed(batch))
            self._drop_oldest()
            raise

    def _drop_oldest(self) -> None:
        with self._lock:
            excess = max(0, len(self._waiting) - self._max_waiting)
            for _ in range(excess):
                self._waiting.popleft()
        self._lose(excess)

    def _lose(self, number: int) -> None:
        with self._lock:
            self.lost += number

    def _up(self) -> None:
        if not self.healthy:
            self.healthy = True
            logger.info("MLflow answers again.")
            self._submit(self._send_waiting, loses=0)

    def _down(self, error: Exception) -> None:
        self.healthy = False
        self._probe_at = time.monotonic() + self._probe_seconds
        self._warn("does not answer", error)

    def _refused(self, error: Exception) -> None:
        self.last_error = error
        if self._tracker is None or self._start is not None:  # there is no run to send calls to
            self._down(error)
        else:
            self._warn("refused a call", error)

    def _warn(self, what: str, error: Exception) -> None:
        level = logging.DEBUG if what in self._warned else logging.WARNING
        self._warned.add(what)
        logger.log(
            level,
            "MLflow %s (%s). The run continues, and everything it logs is on disk: "
            "send it later with `smt-ray log %s`.",
            what,
            redact(str(error))[:200],
            self._run_name,
        )
