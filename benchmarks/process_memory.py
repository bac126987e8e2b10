"""The memory of this process's descendants, sampled while they run."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_PERIOD_S = 0.05

_OURS = ("ray::compute_shards", "ray::_Adder", "ray::store_table")  # not idle ones, nor Ray's


class ProcessMemory:
    """Samples the private memory of Ray's task processes while the context is open.

    Private memory is resident and not shared: it excludes libraries' files and the object store.

    Attributes:
        peak: The largest number of bytes that all processes had together at one time.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._largest: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def largest(self, title: str) -> int:
        """The largest number of bytes that one process with that title had."""
        return max((size for name, size in self._largest.items() if title in name), default=0)

    def __enter__(self) -> ProcessMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            sizes = self._sample()
            self.peak = max(self.peak, sum(sizes.values()))
            for name, size in sizes.items():
                self._largest[name] = max(size, self._largest.get(name, 0))

    def _sample(self) -> dict[str, int]:
        """Title and process id -> private bytes."""
        sizes = {}
        for process in psutil.Process().children(recursive=True):
            try:
                title = " ".join(process.cmdline())
                if title.startswith(_OURS):
                    memory = process.memory_info()
                    sizes[f"{title} {process.pid}"] = memory.rss - memory.shared
            except psutil.Error:  # it has just ended
                continue
        return sizes
