"""Tables as records: parquet, Arrow, and datasets that ``datasets`` saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

from smt_ray.errors import UserError

_BATCH = 1024  # records that are made together
_BUFFER = 1 << 20  # with which the reader takes a large group of rows in pieces


def read_parquet(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The records of a parquet file."""
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER)
    return _records(table.iter_batches(_BATCH))


def read_arrow(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The records of Arrow's file format, which is also feather's, or of its stream."""
    import pyarrow.ipc

    is_file = file.read(6) == b"ARROW1"
    file.seek(0)
    if not is_file:
        return _records(pyarrow.ipc.open_stream(file))
    opened = pyarrow.ipc.open_file(file)
    return _records(map(opened.get_batch, range(opened.num_record_batches)))


def read_saved(path: Path, split: str) -> Iterator[dict[str, Any]]:
    """The records of a folder that ``datasets`` saved.

    Raises:
        UserError: It is no such folder, or it has no such split.
    """
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # other tools have files of these names, too
        raise UserError(
            str(path), f"must be a dataset that datasets saved ({type(error).__name__}: {error})",
            fix="name the files in it by a pattern, such as FOLDER/*.json",
        ) from None  # fmt: skip
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise UserError(f"{path}, split", f"must be one of {', '.join(found)}", got=split)
        found = found[split]
    return map(_kept_nulls, found)


def is_saved_dataset(path: Path) -> bool:
    """Whether ``datasets`` saved a folder."""
    info, state = path / "dataset_info.json", path / "state.json"
    try:
        return (info.is_file() and state.is_file()) or (path / "dataset_dict.json").is_file()
    except PermissionError as error:  # names what was given, and not a file within it
        raise PermissionError(error.errno, error.strerror, str(path)) from None


def without_nulls(value: Any) -> Any:
    """A value without the null entries of mappings within it.

    Tables give every mapping of a column the same keys, and null to those that it does not have.
    """
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, (list, tuple)) else value


def _records(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The records of Arrow's batches, a few at a time."""
    pieces = (batch.slice(i, _BATCH) for batch in batches for i in range(0, len(batch), _BATCH))
    return (_kept_nulls(record) for record in chain.from_iterable(p.to_pylist() for p in pieces))


def _kept_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the nulls within its values; a field that is null is known to be there."""
    return {key: without_nulls(value) for key, value in record.items()}
