"""metrics.jsonl: one record for each logged step. New records are appended every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import Record
from smt_ray.tracking.records import encode_record, make_record, parse_records

_FLUSH_EVERY_S = 2.0
_LARGEST_SHARE = 0.01  # of the time, for flushes; an object store writes the whole file again


def write_records(storage: Storage, path: str, records: Sequence[Record]) -> None:
    """Writes a whole metrics.jsonl at once."""
    storage.write_bytes(path, _encode(records))


def _encode(records: Sequence[Record]) -> bytes:
    return "".join(encode_record(record) + "\n" for record in records).encode()


class MetricsLog:
    """The records of one writer: new ones in memory, the others in the file.

    Args:
        storage: The storage of the file.
        path: The file, within the storage.
        start: The step that training starts from. Later records of an earlier attempt are dropped,
            because their steps are repeated.

    Attributes:
        latest: The last value of every metric, including those of an earlier attempt.
    """

    def __init__(self, storage: Storage, path: str, start: int) -> None:
        self._storage, self._path = storage, path
        self.latest: dict[str, float] = {}
        self._pending: list[Record] = []
        kept: list[Record] = []
        if start and storage.exists(path):
            earlier = parse_records(storage.read_text(path))
            kept = [record for record in earlier if record["step"] <= start]
        write_records(storage, path, kept)
        for record in kept:
            self.latest |= record["metrics"]
        self._due = time.monotonic() + _FLUSH_EVERY_S

    def add(self, step: int, metrics: Mapping[str, float]) -> list[Record]:
        """Adds a record; returns the records that this call wrote to the file, if any."""
        record = make_record(step, metrics)
        self.latest |= record["metrics"]
        self._pending.append(record)
        return self.flush() if time.monotonic() >= self._due else []

    def flush(self) -> list[Record]:
        """Writes the new records; returns them."""
        began = time.monotonic()
        if self._pending:
            self._storage.append_bytes(self._path, _encode(self._pending))
        written, self._pending = self._pending, []
        ended = time.monotonic()
        self._due = ended + max(_FLUSH_EVERY_S, (ended - began) / _LARGEST_SHARE)
        return written
