"""What became of a search's trials, written down as it happens: what a later start goes by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smt_ray.artifacts.storage import Storage

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped early", "failed"

Entry = dict[str, Any]
"""``id`` (Ray Tune's), ``point``, ``status``, ``error`` and ``seconds`` of a trial."""


def make_entry(
    trial_id: str, point: Mapping[str, Any], status: str, error: str = "",
    seconds: float | None = None,
) -> Entry:  # fmt: skip
    """A trial as plain values."""
    return {
        "id": trial_id, "point": dict(point), "status": status, "error": error, "seconds": seconds,
    }  # fmt: skip


class TrialRecord:
    """``searches/<name>/trials.json``, for one writer: the search's driver.

    Ray Tune's own snapshots are not gone by: they come late, and know nothing of the stages.

    Args:
        root: The storage's; a string, as Ray Tune pickles who writes here.
        folder: The search's, as the storage names it.

    Attributes:
        entries: One a trial, in the order of their starts.
    """

    def __init__(self, root: str, folder: str) -> None:
        self._root, self._place = root, f"{folder}/trials.json"
        storage = Storage(root)
        self.entries: list[Entry] = (
            storage.read_json(self._place) if storage.exists(self._place) else []
        )

    def put(self, entry: Entry) -> None:
        """Writes how a trial stands now."""
        others = {other["id"]: other for other in self.entries}
        self.replace({**others, entry["id"]: entry}.values())

    def replace(self, entries: Iterable[Entry]) -> None:
        """Writes these alone."""
        self.entries = list(entries)
        Storage(self._root).write_json(self._place, self.entries)
