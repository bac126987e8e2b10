"""``trials.json``: the trials of a search, written down as they start and end."""

from __future__ import annotations

from collections.abc import Iterable

from smt_ray.artifacts.layout import TRIALS
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.search import TrialEntry, TrialList


class TrialRecord:
    """The record of a search's trials, which a later start continues from.

    Only the driver of the search writes it. Ray Tune's own snapshots are not used: they are written
    late and know nothing of stages.

    Args:
        root: The root of the storage. It is a string because Ray Tune pickles its callbacks.
        folder: The folder of the search, as the storage names it.

    Attributes:
        entries: The trials in the order of their starts.
    """

    def __init__(self, root: str, folder: str) -> None:
        self._root, self._place = root, f"{folder}/{TRIALS}"
        storage = Storage(root)
        self.entries: list[TrialEntry] = []
        if storage.exists(self._place):
            found = storage.read_document(
                TrialList, self._place, fix="delete it and start the search again"
            )
            self.entries = found.trials

    def put(self, entry: TrialEntry) -> None:
        """Writes the state of a trial; an earlier entry of the trial is replaced."""
        others = {other.id: other for other in self.entries}
        self.replace({**others, entry.id: entry}.values())

    def replace(self, entries: Iterable[TrialEntry]) -> None:
        """Writes these entries instead of all others."""
        self.entries = list(entries)
        Storage(self._root).write_json(self._place, TrialList(trials=self.entries).to_json())
