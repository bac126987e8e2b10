"""Rows on disk: a command keeps the places of its rows in memory, and makes each row when asked.

The rows of a source are written to an Arrow file in the temporary directory (TMPDIR), which is
mapped into memory and removed when the last of its rows is forgotten.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.data.rows import Message, Row

Places = npt.NDArray[np.int32]
Fingerprints = npt.NDArray[np.uint8]
"""One fingerprint a row, (N, bytes)."""

_BATCH = 4096  # rows that are written or read together
_DIGEST, _MEANING = 32, 16  # 16 bytes are enough to tell rows apart
_SCHEMA = pa.schema(
    [("row", pa.binary()), ("digest", pa.binary(_DIGEST)), ("meaning", pa.binary(_MEANING))]
)


class RowTable:
    """The rows of one source, on disk.

    Args:
        path: The Arrow file, which :meth:`write` made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    @classmethod
    def write(cls, rows: Iterable[Row]) -> RowTable:
        """Writes rows, one batch after the other; the file is removed with the table."""
        rows = iter(rows)
        with ExitStack() as stack:
            path = stack.enter_context(scratch_folder()) / "rows.arrow"
            with pa.ipc.new_file(str(path), _SCHEMA) as writer:
                while batch := list(islice(rows, _BATCH)):
                    written = (
                        [_written(row) for row in batch],
                        [row.digest() for row in batch],
                        [row.meaning()[:_MEANING] for row in batch],
                    )
                    writer.write_batch(pa.record_batch(list(map(pa.array, written)), _SCHEMA))
            table = cls(path)
            weakref.finalize(table, stack.pop_all().close)
        return table

    def __reduce__(self) -> tuple[type[RowTable], tuple[Path]]:
        """Another process reads the file while this one has the table."""
        return RowTable, (self._path,)

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    def written(self, index: int) -> bytes:
        """A row as it is written."""
        batch, place = divmod(index, _BATCH)
        return bytes(self._rows[batch][place].as_py())

    def digests(self) -> Fingerprints:
        """The digest of each row, (N, 32)."""
        return self._fingerprints("digest", _DIGEST)

    def meanings(self) -> Fingerprints:
        """The beginning of each row's meaning, (N, 16)."""
        return self._fingerprints("meaning", _MEANING)

    def _fingerprints(self, name: str, width: int) -> Fingerprints:
        chunks = self._columns.column(name).chunks
        parts = [np.frombuffer(chunk.buffers()[1], np.uint8) for chunk in chunks]
        return np.concatenate([np.empty(0, np.uint8), *parts]).reshape(-1, width)

    @cached_property
    def _rows(self) -> list[Any]:
        chunks: list[Any] = self._columns.column("row").chunks
        return chunks


class Rows(Sequence[Row]):
    """Rows of some tables, in any order.

    Args:
        tables: The tables.
        weights: The weight of the rows of each table.
        places: The place of each row in the joined tables.
        positions: The position of each row among the rows of all sources; by default that in
            ``places``.
    """

    def __init__(
        self,
        tables: Sequence[RowTable],
        weights: Sequence[float],
        places: Places,
        positions: Places | None = None,
    ) -> None:
        self._tables, self._weights, self._places = tuple(tables), tuple(weights), places
        self._positions = _numbers(len(places)) if positions is None else positions
        self._starts = np.cumsum([0, *map(len, tables)])

    @classmethod
    def of(cls, rows: Iterable[Row], weight: float = 1.0) -> Rows:
        """The given rows, written to a table of their own."""
        table = RowTable.write(rows)
        return cls([table], [weight], _numbers(len(table)))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of several sources; their positions are counted over all of them."""
        starts = np.cumsum([0, *(part._starts[-1] for part in parts)])
        places = [part._places + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            [table for part in parts for table in part._tables],
            [weight for part in parts for weight in part._weights],
            np.concatenate([_numbers(0), *places]).astype(np.int32),
        )

    def select(self, indices: npt.ArrayLike) -> Rows:
        """The rows at some indices, in that order."""
        chosen = np.asarray(indices, np.int32)
        return Rows(self._tables, self._weights, self._places[chosen], self._positions[chosen])

    def weighing(self, weight: float) -> Rows:
        """The same rows with another weight."""
        return Rows(self._tables, [weight] * len(self._tables), self._places, self._positions)

    def weights(self) -> npt.NDArray[np.float64]:
        """The weight of each row, (N,)."""
        return np.asarray(self._weights, np.float64)[self._table_of(self._places)]

    def digest(self) -> str:
        """The fingerprint of the rows in their order; see ``digest_rows``."""
        sha256 = hashlib.sha256()
        for batch in self._gathered([table.digests() for table in self._tables]):
            sha256.update(batch.tobytes())
        return sha256.hexdigest()

    def meanings(self) -> Fingerprints:
        """The beginning of each row's meaning, (N, 16): rows that say the same share it."""
        found, start = np.empty((len(self), _MEANING), np.uint8), 0
        for batch in self._gathered([table.meanings() for table in self._tables]):
            found[start : start + len(batch)] = batch
            start += len(batch)
        return found

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        place, position = int(self._places[index]), int(self._positions[index])
        number = int(self._table_of(place))
        written = self._tables[number].written(place - int(self._starts[number]))
        return _read(written, self._weights[number], position)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def _table_of(self, places: Places | int) -> Places:
        """The number of the table that holds a place."""
        found = np.searchsorted(self._starts, places, side="right") - 1
        return np.asarray(found, np.int32)

    def _gathered(self, fingerprints: list[Fingerprints]) -> Iterator[Fingerprints]:
        """The fingerprints of the rows in their order, a batch at a time."""
        joined = np.concatenate(fingerprints) if len(fingerprints) > 1 else fingerprints[0]
        for start in range(0, len(self), _BATCH):
            yield joined[self._places[start : start + _BATCH]]


def first_places(fingerprints: Fingerprints) -> Places:
    """The place of the first row with the same fingerprint, for each row, (N,)."""
    data = np.ascontiguousarray(fingerprints)
    width = pa.binary(data.shape[1])
    values = pa.FixedSizeBinaryArray.from_buffers(width, len(data), [None, pa.py_buffer(data)])
    # Codes are numbered in the order in which they first appear, so the largest grows there.
    codes = values.dictionary_encode().indices.to_numpy()
    seen = np.maximum.accumulate(codes) if len(codes) else codes
    first = np.flatnonzero(np.diff(seen, prepend=-1))
    return np.asarray(first[codes], np.int32)


def _numbers(number: int) -> Places:
    return np.arange(number, dtype=np.int32)


def _written(row: Row) -> bytes:
    """A row as JSON, in which the keys of its objects keep their order, as templates see it."""
    turns = [[turn.for_template(), turn.is_learned] for turn in row.messages]
    content = [
        row.instruction, row.output, row.input, row.answer, row.system, row.history, turns,
        row.tools, row.is_verbatim, row.place,
    ]  # fmt: skip
    return json.dumps(content, ensure_ascii=False).encode(errors="surrogatepass")


def _read(written: bytes, weight: float, position: int) -> Row:
    instruction, output, context, answer, system, history, turns, tools, is_verbatim, place = (
        json.loads(written)
    )
    return Row(
        instruction, output, context, answer, system,
        tuple((asked, said) for asked, said in history),
        tuple(_message(turn, is_learned) for turn, is_learned in turns),
        tuple(tools), is_verbatim, weight, position, place,
    )  # fmt: skip


def _message(turn: dict[str, Any], is_learned: bool) -> Message:
    return Message(turn.pop("role"), turn.pop("content"), is_learned, turn)
