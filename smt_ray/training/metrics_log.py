"""metrics.jsonl: one record for each logged step. The whole file is written every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import Record
from smt_ray.tracking.records import encode_record, make_record, parse_records

_FLUSH_EVERY_S = 2.0


def write_records(storage: Storage, path: str, records: Sequence[Record]) -> None:
    """Writes a whole metrics.jsonl at once."""
    _write(storage, path, [encode_record(record) for record in records])


def _write(storage: Storage, path: str, lines: list[str]) -> None:
    storage.write_bytes(path, "".join(line + "\n" for line in lines).encode())


class MetricsLog:
    """The records of one writer, in memory and on disk.

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
        self._lines: list[str] = []
        self._pending: list[Record] = []
        self._flushed_at = time.monotonic()
        if start and storage.exists(path):
            earlier = parse_records(storage.read_bytes(path).decode())
            for record in earlier:
                if record["step"] <= start:
                    self._keep(record)

    def add(self, step: int, metrics: Mapping[str, float]) -> list[Record]:
        """Adds a record; returns the records that this call wrote to the file, if any."""
        record = make_record(step, metrics)
        self._keep(record)
        self._pending.append(record)
        if time.monotonic() - self._flushed_at >= _FLUSH_EVERY_S:
            return self.flush()
        return []

    def flush(self) -> list[Record]:
        """Writes the file; returns its new records."""
        _write(self._storage, self._path, self._lines)
        written, self._pending = self._pending, []
        self._flushed_at = time.monotonic()
        return written

    def _keep(self, record: Record) -> None:
        self._lines.append(encode_record(record))
        self.latest |= record["metrics"]
