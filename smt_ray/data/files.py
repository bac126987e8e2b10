"""Files of rows as records: JSON, JSON lines, CSV and tables, compressed or not.

Texts are read by the parsers of Python's library, which keep every value as it is. The tables that
``datasets`` makes of JSON would turn dates into times and integers into floats, and need the same
keys in every row. Records are read one after the other, except those of a JSON list.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

import fsspec
from charset_normalizer import from_bytes

from smt_ray.config.data import FIELDS
from smt_ray.data.arrow import is_saved_dataset, read_arrow, read_parquet, read_saved
from smt_ray.errors import UserError

Records = Iterable[Any]
Reader = Callable[[IO[bytes], Path, str], Records]


class _OfSplit(list[Any]):
    """The records of the split that was wanted, of a file with several."""


_TABLES = (".parquet", ".arrow", ".feather")
_PACKED = (".gz", ".zst", ".bz2", ".xz")
_WHOLE = ("data", "rows", "examples")  # the only key of a JSON object that holds a list of rows
_MARKS = {"utf-16": (b"\xff\xfe", b"\xfe\xff"), "utf-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff")}


def read_records(path: Path, split: str, *, is_asked: bool = False) -> Iterator[Any]:
    """The records of one file, one after the other.

    Args:
        path: The file, or a folder that ``datasets`` saved.
        split: The split to take from a JSON file or a folder that holds several.
        is_asked: Whether the user asked for the split, so that the file must hold several.

    Raises:
        UserError: The file cannot be read, is not in UTF-8, or is not what its name says.
    """
    if is_saved_dataset(path):
        yield from read_saved(path, split)
        return
    try:
        with _opened(path) as file:
            found = READERS.get(kind(path), _read_json)(file, path, split)
            if is_asked and not isinstance(found, _OfSplit):
                raise UserError(
                    f"{path}, split", "must be a split of a file that holds several", got=split,
                    fix="leave split out of the source",
                )  # fmt: skip
            yield from found
    except UserError:
        raise
    except Exception as error:  # each kind of compression and of table has errors of its own
        if isinstance(error, UnicodeDecodeError) and kind(path) not in _TABLES:
            raise _not_utf8(path) from None
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        raise UserError(
            str(path), f"must be a readable file of rows ({reason})",
            fix="check the file, and that its name says what it holds",
        ) from None  # fmt: skip


def kind(path: Path) -> str:
    """The suffix that says what a file holds, without that of its compression."""
    return Path(path.stem).suffix.lower() if _compression(path) else path.suffix.lower()


def _compression(path: Path) -> str | None:
    return "infer" if path.suffix.lower() in _PACKED else None


def _opened(path: Path) -> Any:
    return fsspec.open(str(path), "rb", compression=_compression(path))


def _whole(path: Path) -> bytes:
    with _opened(path) as file:
        return bytes(file.read())


def _text(file: IO[bytes], newline: str | None = None) -> io.TextIOWrapper:
    """The text of a file in UTF-8, with or without a byte order mark."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


def _not_utf8(path: Path) -> UserError:
    """The error for a file that is not in UTF-8."""
    data = _whole(path)
    marked = [name for name, marks in _MARKS.items() if data.startswith(marks)]
    try:
        data.decode("utf-8-sig")
        reason = ""
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is {data[error.start]:#04x}{_guess(data)}"
    if marked:
        reason = f"its first bytes are those of {marked[-1]}"
    return UserError(
        str(path), f"must be encoded in UTF-8 ({reason})",
        fix=f"convert it, such as with iconv -f ENCODING -t UTF-8 {path}",
    )  # fmt: skip


def _guess(data: bytes) -> str:
    """The likely encoding of a text; of several that read it alike, the most usual one."""
    best = from_bytes(data[:100_000]).best()
    if best is None:
        return ""
    alike = best.could_be_from_charset
    return (
        f", as in {next((name for name in ('cp1252', 'latin_1') if name in alike), best.encoding)}"
    )


def _read_json(file: IO[bytes], path: Path, split: str) -> Records:
    """A list of rows, an object that holds one, or one row a line, whatever the file's name."""
    lines = ((number, line) for number, line in enumerate(_text(file), 1) if line.strip())
    first = next(lines, (1, ""))
    begin = first[1].lstrip()[:1]
    if begin == "[" or (begin == "{" and not _is_json(first[1])):
        text = _whole(path).decode("utf-8-sig")
        return _rows_in(_loaded(text, str(path)), path, split)
    second = next(lines, None)
    if second is None:
        found = [_line(first, path)] if begin else []
        return _rows_in(found[0], path, split) if found and _holds_lists(found[0]) else found
    return (_line(line, path) for line in chain([first, second], lines))


def _line(line: tuple[int, str], path: Path) -> Any:
    return _loaded(line[1], f"{path}, line {line[0]}")


def _rows_in(value: Any, path: Path, split: str) -> list[Any]:
    """The rows in the value of a whole file."""
    if isinstance(value, dict):
        lists = _lists(value, split)
        if not lists:
            raise UserError(
                str(path), "must hold a list of rows, one row a line, or a list for each split",
                got=sorted(value), fix=f"name the list {split}, or set split of the source",
            )  # fmt: skip
        return _OfSplit(lists[0]) if split in value else lists[0]
    if not isinstance(value, list):
        raise UserError(str(path), "must hold a list of rows", got=type(value).__name__)
    return value


def _holds_lists(value: Any) -> bool:
    """Whether an object holds lists of rows, and is not itself a row."""
    return (
        isinstance(value, Mapping)
        and not set(value) & set(FIELDS)
        and all(isinstance(part, list) for part in value.values())
    )


def _lists(value: Any, split: str) -> list[list[Any]]:
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


def _read_csv(file: IO[bytes], path: Path, split: str, delimiter: str = ",") -> Records:
    """Rows of texts, by the names in the first line; a cell is never read as anything else."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(_text(file, newline=""), delimiter=delimiter, strict=True)
    names = list(reader.fieldnames or ())
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"{path}, line 1", "must name each column once", got=twice[0],
            fix="rename one of the columns",
        )  # fmt: skip
    return _csv_rows(reader, path)


def _csv_rows(reader: csv.DictReader[str], path: Path) -> Records:
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}",
                    "must have as many cells as the first line has names",
                    got=len([cell for cell in row.values() if isinstance(cell, str)]),
                    fix="quote cells that hold the delimiter",
                )
            yield row
    except csv.Error as error:
        raise UserError(
            f"{path}, after line {reader.line_num}", f"must be valid CSV ({error})",
            fix="quote cells that hold quotes or line breaks",
        ) from None  # fmt: skip


def _read_tsv(file: IO[bytes], path: Path, split: str) -> Records:
    return _read_csv(file, path, split, delimiter="\t")


def _table(read: Callable[[IO[bytes]], Records]) -> Reader:
    """The reader of a table, in which it jumps, so that a compressed one is read as a whole."""
    return lambda file, path, _: read(io.BytesIO(file.read()) if _compression(path) else file)


READERS: dict[str, Reader] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _read_json),
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _table(read_parquet),
    **dict.fromkeys((".arrow", ".feather"), _table(read_arrow)),
}
"""Suffix -> its reader; any other file is read as JSON."""
