"""Files of rows as records: JSON, JSON lines, CSV, parquet and Arrow, compressed or not.

Texts are read by the parsers of Python's library, which keep every value as it is. The tables that
``datasets`` makes of JSON would turn dates into times and integers into floats, and need the same
keys in every row.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
from charset_normalizer import from_bytes

from smt_ray.config.data import FIELDS
from smt_ray.errors import UserError

Records = list[Any]


class _OfSplit(list[Any]):
    """The records of the split that was wanted, of a file with several."""


_PACKED = (".gz", ".zst", ".bz2", ".xz")
_WHOLE = ("data", "rows", "examples")  # the only key of a JSON object that holds a list of rows
_MARKS = {"utf-16": (b"\xff\xfe", b"\xfe\xff"), "utf-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff")}


def read_records(path: Path, split: str, *, is_asked: bool = False) -> Records:
    """The records of one file.

    Args:
        path: The file, or a folder that ``datasets`` saved.
        split: The split to take from a JSON file or a folder that holds several.
        is_asked: Whether the user asked for the split, so that the file must hold several.

    Raises:
        UserError: The file cannot be read, is not in UTF-8, or is not what its name says.
    """
    if is_saved_dataset(path):
        return _read_saved(path, split)
    try:
        with fsspec.open(str(path), "rb", compression=_compression(path)) as file:
            data = file.read()
        found = READERS.get(kind(path), _read_json)(data, path, split)
    except UserError:
        raise
    except Exception as error:  # each kind of compression and of table has errors of its own
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(
            str(path), f"must be a readable file of rows ({reason})",
            fix="check the file, and that its name says what it holds",
        ) from None  # fmt: skip
    if isinstance(found, _OfSplit):
        return list(found)
    if is_asked:
        raise UserError(
            f"{path}, split", "must be a split of a file that holds several", got=split,
            fix="leave split out of the source",
        )  # fmt: skip
    return found


def kind(path: Path) -> str:
    """The suffix that says what a file holds, without that of its compression."""
    return Path(path.stem).suffix.lower() if _compression(path) else path.suffix.lower()


def _compression(path: Path) -> str | None:
    return "infer" if path.suffix.lower() in _PACKED else None


def _decoded(data: bytes, path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    marked = [name for name, marks in _MARKS.items() if data.startswith(marks)]
    try:
        if not marked:
            return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is {data[error.start]:#04x}{_guess(data)}"
    else:
        reason = f"its first bytes are those of {marked[-1]}"
    raise UserError(
        str(path), f"must be encoded in UTF-8 ({reason})",
        fix=f"convert it, such as with iconv -f ENCODING -t UTF-8 {path}",
    ) from None  # fmt: skip


def _guess(data: bytes) -> str:
    """The likely encoding of a text; of several that read it alike, the most usual one."""
    best = from_bytes(data[:100_000]).best()
    if best is None:
        return ""
    alike = best.could_be_from_charset
    return (
        f", as in {next((name for name in ('cp1252', 'latin_1') if name in alike), best.encoding)}"
    )


def _read_json(data: bytes, path: Path, split: str) -> Records:
    """A list of rows, an object that holds one, or one row a line, whatever the file's name."""
    text = _decoded(data, path)
    begin = text.lstrip()[:1]
    lines = [(n, line) for n, line in enumerate(io.StringIO(text, newline=None), 1) if line.strip()]
    if begin == "[" or (begin == "{" and not _is_json(lines[0][1])):
        found = _loaded(text, str(path))
    else:
        found = [_loaded(line, f"{path}, line {number}") for number, line in lines]
        found = found[0] if len(found) == 1 and _holds_lists(found[0]) else found
    if isinstance(found, dict):
        lists = _lists(found, split)
        if not lists:
            raise UserError(
                str(path), "must hold a list of rows, one row a line, or a list for each split",
                got=sorted(found), fix=f"name the list {split}, or set split of the source",
            )  # fmt: skip
        return _OfSplit(lists[0]) if split in found else lists[0]
    if not isinstance(found, list):
        raise UserError(str(path), "must hold a list of rows", got=type(found).__name__)
    return found


def _holds_lists(value: Any) -> bool:
    """Whether an object holds lists of rows, and is not itself a row."""
    return (
        isinstance(value, Mapping)
        and not set(value) & set(FIELDS)
        and all(isinstance(part, list) for part in value.values())
    )


def _lists(value: Any, split: str) -> list[Records]:
    """The list of rows in an object, by the name of the split or as its only value."""
    if not isinstance(value, Mapping):
        return []
    names = [split, *(_WHOLE if len(value) == 1 else ())]
    return [value[name] for name in names if isinstance(value.get(name), list)]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _loaded(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except ValueError as error:
        raise UserError(
            place, f"must be valid JSON ({error})", fix="mend the file at that place"
        ) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of some pairs, whose keys must differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} is repeated"
        )
    return found


def _read_csv(data: bytes, path: Path, split: str, delimiter: str = ",") -> Records:
    """Rows of texts, by the names in the first line; a cell is never read as anything else."""
    csv.field_size_limit(2**31 - 1)
    lines = io.StringIO(_decoded(data, path), newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    names = list(reader.fieldnames or ())
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{path}, line 1", "must name each column once", got=twice[0],
            fix="rename one of the columns",
        )  # fmt: skip
    found: Records = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}",
                    "must have as many cells as the first line has names",
                    got=len([cell for cell in row.values() if isinstance(cell, str)]),
                    fix="quote cells that hold the delimiter",
                )
            found.append(row)
    except csv.Error as error:
        raise UserError(
            f"{path}, after line {reader.line_num}", f"must be valid CSV ({error})",
            fix="quote cells that hold quotes or line breaks",
        ) from None  # fmt: skip
    return found


def _read_tsv(data: bytes, path: Path, split: str) -> Records:
    return _read_csv(data, path, split, delimiter="\t")


def _read_parquet(data: bytes, path: Path, split: str) -> Records:
    import pyarrow.parquet

    return list(_without_nulls(pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()))


def _read_arrow(data: bytes, path: Path, split: str) -> Records:
    """Arrow's file format, which is also feather's, or its stream, which ``datasets`` writes."""
    import pyarrow.ipc

    is_file = data[:6] == b"ARROW1"
    opened = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(io.BytesIO(data))
    return list(_without_nulls(opened.read_all().to_pylist()))


def _read_saved(path: Path, split: str) -> Records:
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
    return list(_without_nulls(found))


def without_nulls(value: Any) -> Any:
    """A value without the null entries of mappings within it.

    Tables give every mapping of a column the same keys, and null to those that it does not have.
    """
    if isinstance(value, Mapping):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, (list, tuple)) else value


def _without_nulls(records: Any) -> Iterator[dict[str, Any]]:
    for record in records:
        yield {key: without_nulls(value) for key, value in record.items()}


def is_saved_dataset(path: Path) -> bool:
    """Whether ``datasets`` saved a folder."""
    info, state = path / "dataset_info.json", path / "state.json"
    return (info.is_file() and state.is_file()) or (path / "dataset_dict.json").is_file()


READERS: dict[str, Callable[[bytes, Path, str], Records]] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    **dict.fromkeys((".arrow", ".feather"), _read_arrow),
}
"""Suffix -> its reader; any other file is read as JSON."""
