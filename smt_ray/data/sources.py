"""Sources of rows: JSON and JSONL files, LLM-Adapters' folders, the hub, built-in suites."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cachetools import LRUCache, cached

from smt_ray.artifacts.versions import Version, file_version, versioned
from smt_ray.config.model_and_data import HubSource
from smt_ray.data.hub import read_hub_source, read_hub_task
from smt_ray.data.rows import Row, parse_rows
from smt_ray.errors import UserError

BUILTIN = "builtin:"
HUB = "hub:"
HUB_DIRECTORY = "hub"
"""The value of ``data.dir`` for the original datasets; a folder of that name is ``./hub``."""

Source = str | HubSource
"""An entry of ``data.train``: a file, ``builtin:<task>``, ``hub:<task>``, or a hub dataset."""


def read_training_rows(sources: Sequence[Source], directory: str | None = None) -> list[Row]:
    """The rows of several sources, in order; positions are counted over all of them.

    Args:
        sources: The entries of ``data.train``.
        directory: The folder ``data.dir``, in which relative file names are looked up first.

    Raises:
        UserError: A source cannot be read, is empty, or holds a bad row.
    """
    rows: list[Row] = []
    for source in sources:
        rows += _read_source(source, directory)
    return [replace(row, position=i) for i, row in enumerate(rows)]


def read_task_rows(task: str, directory: str | None, *, builtin: bool) -> list[Row]:
    """The test rows of an evaluation task.

    Args:
        task: The name of the task, such as ``boolq``.
        directory: The folder ``data.dir``, with ``dataset/<task>/test.json``; ``hub`` for the
            original dataset of the task.
        builtin: Whether the task is one of the built-in suites.

    Raises:
        UserError: The file or dataset is missing or bad.
    """
    if builtin:
        return _builtin_rows(task, "test")
    if directory == HUB_DIRECTORY:
        return read_hub_task(task, training=False)
    if directory is None:
        raise UserError(
            "data.dir",
            f"must be set: {task} is read from <dir>/dataset/{task}/test.json",
            got=None,
            fix="give a clone of LLM-Adapters, a folder laid out like one, or hub for the original"
            " datasets",
        )
    return read_file(_task_file(task, directory))


def read_file(path: Path) -> list[Row]:
    """The rows of a JSON file (a list) or a JSONL file (one object a line).

    Raises:
        UserError: The file cannot be read, is empty, or holds a bad row.
    """
    try:
        return list(_parse_file(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            str(path), f"must be a readable JSON or JSONL file ({reason})", fix="check data.dir"
        ) from None


@cached(LRUCache(maxsize=32), key=versioned)
def _parse_file(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8")
    records = _parse_lines(text, path) if path.suffix == ".jsonl" else _parse_list(text, path)
    return parse_rows(records, str(path))


def digest_rows(rows: Iterable[Row]) -> str:
    """The fingerprint of rows: the sha256 of their content."""
    sha256 = hashlib.sha256()
    for row in rows:
        content = [row.instruction, row.input, row.output, row.answer, *row.messages]
        sha256.update(json.dumps(content).encode() + b"\n")
    return sha256.hexdigest()


def split_rows(
    rows: Sequence[Row], *, max_rows: int | None, validation_rows: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Draws the training rows and the validation rows, each in the order of the source.

    Raises:
        UserError: No row would be left to train on.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    used = order[: max_rows or len(order)]
    if validation_rows >= len(used):
        raise UserError(
            "data.validation_rows",
            f"must be smaller than the number of rows ({len(used)})",
            got=validation_rows,
        )
    validation, training = used[:validation_rows], used[validation_rows:]
    return [rows[i] for i in sorted(training)], [rows[i] for i in sorted(validation)]


def source_version(source: Source, directory: str | None) -> Version | None:
    """The version of a source's file; None for a source that is not a file."""
    if isinstance(source, HubSource) or source.startswith((BUILTIN, HUB)):
        return None
    return file_version(_source_file(source, directory))


def task_version(task: str, directory: str | None, *, builtin: bool) -> Version | None:
    """The version of the file with a task's test rows; None for rows that are not in a file."""
    if builtin or directory is None or directory == HUB_DIRECTORY:
        return None
    return file_version(_task_file(task, directory))


def is_local(source: Source) -> bool:
    """Whether an entry of ``data.train`` is read without the network."""
    return isinstance(source, str) and not source.startswith(HUB)


def _read_source(source: Source, directory: str | None) -> list[Row]:
    if isinstance(source, HubSource):
        return read_hub_source(source)
    if source.startswith(BUILTIN):
        return _builtin_rows(source.removeprefix(BUILTIN), "train")
    if source.startswith(HUB):
        return read_hub_task(source.removeprefix(HUB), training=True)
    return read_file(_source_file(source, directory))


def _source_file(source: str, directory: str | None) -> Path:
    """The file of a source: relative to the directory, or else to the working directory."""
    path = Path(source).expanduser()
    folder = None if directory == HUB_DIRECTORY else directory
    within = Path(folder).expanduser() / path if folder else path
    return within if within.exists() or not path.exists() else path


def _task_file(task: str, directory: str) -> Path:
    return Path(directory).expanduser() / "dataset" / task / "test.json"


def _builtin_rows(task: str, split: str) -> list[Row]:
    from smt_ray.builtin.suites import TASKS, generate_rows

    if task not in TASKS:
        raise UserError("data.train", f"built-in suites are {', '.join(TASKS)}", got=task)
    return parse_rows(generate_rows(task, split), f"{BUILTIN}{task}")


def _parse_list(text: str, path: Path) -> list[Any]:
    try:
        records = json.loads(text)
    except ValueError as error:
        raise UserError(str(path), f"must be valid JSON ({error})") from None
    if not isinstance(records, list):
        raise UserError(str(path), "must hold a list of rows", got=type(records).__name__)
    return records


def _parse_lines(text: str, path: Path) -> list[Any]:
    records = []
    # splitlines() would also split at U+2028 and other characters that JSON strings may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}, line {number}", f"must be valid JSON ({error})") from None
    return records
