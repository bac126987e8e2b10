"""Ends a rank that hangs, such as in a collective that another rank does not reach."""

from __future__ import annotations

import faulthandler
import time

_AT_FIRST_S = 1800.0  # until the first sign: kernels may be compiled
_AT_LEAST_S = 300.0
_TIMES_THE_LONGEST = 10.0
_STDERR = 2  # its file, since Ray replaces the object


class Watchdog:
    """Ends this process if it gives no sign of life for too long.

    The stacks of its threads are written to standard error, which is the worker's log. Ray Train
    notices that the process is gone, and starts all ranks again from the latest checkpoint.

    Args:
        timeout_s: The most seconds between two signs. By default ten times the longest time between
            two signs so far, and at least 300 s.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s = timeout_s
        self._longest_s = 0.0
        self._last: float | None = None

    def sign(self) -> None:
        """Gives a sign of life, and waits for the next one from now on."""
        now = time.monotonic()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
        self._last = now
        faulthandler.dump_traceback_later(self.limit_s, exit=True, file=_STDERR)

    @property
    def limit_s(self) -> float:
        """The most seconds until the next sign."""
        if self._timeout_s is not None:
            return self._timeout_s
        if not self._longest_s:
            return _AT_FIRST_S
        return max(_AT_LEAST_S, _TIMES_THE_LONGEST * self._longest_s)

    def stop(self) -> None:
        """Waits for no sign until the next one is given."""
        self._last = None
        faulthandler.cancel_dump_traceback_later()
