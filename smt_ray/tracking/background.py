"""A background thread that makes calls one after the other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class BackgroundCalls:
    """Calls that wait for a background thread, which makes them in their order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[[], None]) -> None:
        """Adds a call, which must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put(call)

    def wait(self, timeout: float) -> bool:
        """Waits at most ``timeout`` seconds; returns whether every call was made by then."""
        with self._queue.all_tasks_done:
            return self._queue.all_tasks_done.wait_for(
                lambda: not self._queue.unfinished_tasks, timeout
            )

    def stop(self) -> None:
        """Ends the thread after the calls that wait; the next call starts another thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread = None

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            finally:
                self._queue.task_done()
        self._queue.task_done()
