"""Sources of rows: files, LLM-Adapters' folders, the hub, built-in suites."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from cachetools import LRUCache, cached

from smt_ray.artifacts.versions import Version, file_version, versioned
from smt_ray.builtin import BUILTIN
from smt_ray.config.data import DataConfig, Source
from smt_ray.data.files import read_records
from smt_ray.data.hub.reading import read_hub_records, read_hub_task
from smt_ray.data.paths import expand, expand_home
from smt_ray.data.records import BadRecords, parse_rows
from smt_ray.data.rows import Row
from smt_ray.data.table import Rows
from smt_ray.errors import UserError

HUB = "hub:"
HUB_DIRECTORY = "hub"
"""The value of ``data.dir`` for the original datasets; a folder of that name is ``./hub``."""

AnySource = str | Source
"""An entry of ``data.train``: a file, ``builtin:<task>``, ``hub:<task>``, or a mapping."""


@dataclass(frozen=True)
class Reading:
    """How records are read.

    Attributes:
        directory: The folder ``data.dir``, in which relative paths are looked up first.
        ignored: The keys that are left out.
        skips_bad_rows: Whether rows that cannot be used are left out.
        seed: The seed of what a source draws.
        split: The split of sources that name none.
        is_test: Whether the rows are test rows, whose output may be empty.
    """

    directory: str | None = None
    ignored: tuple[str, ...] = ()
    skips_bad_rows: bool = False
    seed: int = 0
    split: str = "train"
    is_test: bool = False

    @classmethod
    def of(cls, data: DataConfig, seed: int, split: str) -> Reading:
        """How the rows of a config that are no tasks are read."""
        return cls(data.dir, tuple(data.ignore_columns), data.bad_rows == "skip", seed, split)


@dataclass(frozen=True)
class ReadRows:
    """The rows of some sources.

    Attributes:
        rows: The rows, in the order of the sources.
        num_bad: The number of rows that were left out.
        first_bad: The error of the first of them.
    """

    rows: Rows
    num_bad: int = 0
    first_bad: UserError | None = None

    @classmethod
    def joined(cls, parts: Sequence[ReadRows]) -> ReadRows:
        """The rows of several sources, in order."""
        return cls(
            Rows.joined([part.rows for part in parts]),
            sum(part.num_bad for part in parts),
            next((part.first_bad for part in parts if part.first_bad), None),
        )


def read_sources(sources: Sequence[AnySource], reading: Reading, field: str) -> ReadRows:
    """The rows of several sources, in order; positions are counted over all of them.

    Args:
        sources: The entries of a config key.
        reading: How they are read.
        field: The config key, such as ``data.train``.

    Raises:
        UserError: A source cannot be read, is empty, or holds a bad row.
    """
    for source in sources:
        if isinstance(source, Source) and source.weight != 1 and field != "data.train":
            raise UserError(
                field, "must not weigh sources, because weights are for data.train",
                got=source.weight, fix="leave weight out",
            )  # fmt: skip
    return ReadRows.joined([_read_source(source, reading, field) for source in sources])


def read_task_rows(
    task: str, directory: str | None, *, builtin: bool, ignored: Sequence[str] = ()
) -> list[Row]:
    """The test rows of a published or built-in task.

    Args:
        task: The name of the task, such as ``boolq``.
        directory: The folder ``data.dir``, with ``dataset/<task>/test.json``; ``hub`` for the
            original dataset of the task.
        builtin: Whether the task is one of the built-in suites.
        ignored: The keys of rows that are left out.

    Raises:
        UserError: The file or dataset is missing or bad.
    """
    reading = Reading(directory, tuple(ignored), split="test", is_test=True)
    if builtin:
        return list(_builtin_rows(task, reading).rows)
    if directory == HUB_DIRECTORY:
        return list(_hub_rows(task, reading).rows)
    if directory is None:
        raise UserError(
            "data.dir",
            f"must be set: {task} is read from <dir>/dataset/{task}/test.json",
            got=None,
            fix="give a clone of LLM-Adapters, a folder laid out like one, or hub for the original"
            " datasets",
        )
    return list(_read_files((_task_file(task, directory),), Source(path="-"), reading).rows)


def source_version(source: AnySource, directory: str | None) -> tuple[Version | None, ...]:
    """The versions of a source's files; none for a source that is not on this machine."""
    path = _local_path(source, directory)
    if path is None:
        return ()
    try:
        files = expand(path, "")
    except UserError:  # reading it reports the error
        return (None,)
    return tuple(file_version(file) for file in files)


def task_version(task: str, directory: str | None, *, builtin: bool) -> Version | None:
    """The version of the file with a task's test rows; None for rows that are not in a file."""
    if builtin or directory is None or directory == HUB_DIRECTORY:
        return None
    return file_version(_task_file(task, directory))


def is_local(source: AnySource) -> bool:
    """Whether an entry of ``data.train`` is read without the network."""
    return source.hub is None if isinstance(source, Source) else not source.startswith(HUB)


def parse_records(
    records: Iterable[Any],
    label: str,
    reading: Reading,
    columns: Mapping[str, str] | None = None,
) -> ReadRows:
    """The rows of records.

    Args:
        records: The records, in any of the known forms.
        label: The name of their file or dataset, for errors.
        reading: How they are read.
        columns: Field -> its name in the records.

    Raises:
        UserError: There are no records, or one is bad; with ``skips_bad_rows``, all are bad.
    """
    return _stored([(label, records)], reading, columns or {})


def _stored(
    parts: Iterable[tuple[str, Iterable[Any]]], reading: Reading, columns: Mapping[str, str]
) -> ReadRows:
    """The rows of labelled records, which are written to disk one after the other."""
    bad = BadRecords()
    each = (
        parse_rows(
            records, label, columns=columns, ignored=reading.ignored, is_test=reading.is_test,
            bad=bad if reading.skips_bad_rows else None,
        )
        for label, records in parts
    )  # fmt: skip
    return ReadRows(Rows.of(chain.from_iterable(each)), bad.number, bad.first)


def _read_source(source: AnySource, reading: Reading, field: str) -> ReadRows:
    if isinstance(source, str):
        if source.startswith(BUILTIN):
            return _builtin_rows(source.removeprefix(BUILTIN), reading)
        if source.startswith(HUB):
            return _hub_rows(source.removeprefix(HUB), reading)
        source = Source(path=source)
    split = source.split or reading.split
    if source.hub is not None:
        records = read_hub_records(source, split, field)
        found = parse_records(records, f"hub:{source.hub}", reading, source.columns)
    else:
        path = _local_path(source, reading.directory)
        assert path is not None
        found = _read_files(expand(path, field, split), source, reading)
    rows = _drawn(found.rows, source.max_rows, reading.seed)
    return replace(found, rows=rows if source.weight == 1 else rows.weighing(source.weight))


def _drawn(rows: Rows, max_rows: int | None, seed: int) -> Rows:
    if max_rows is None or max_rows >= len(rows):
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), max_rows)))


def _files_key(files: Sequence[Path], source: Source, reading: Reading) -> tuple[object, ...]:
    columns = tuple(sorted(source.columns.items()))
    return *map(versioned, files), source.path, source.split, columns, replace(reading, seed=0)


@cached(LRUCache(maxsize=32), key=_files_key)
def _read_files(files: Sequence[Path], source: Source, reading: Reading) -> ReadRows:
    """The rows of files; a process reads them once until one changes."""
    split, is_asked = source.split or reading.split, source.split is not None
    alone = [source.path is not None and Path(source.path).name == file.name for file in files]
    parts = (
        (str(file), read_records(file, split, is_asked=is_named and is_asked))
        for file, is_named in zip(files, alone, strict=True)
    )
    return _stored(parts, reading, source.columns)


def _local_path(source: AnySource, directory: str | None) -> Path | None:
    """The path of a source: relative to the directory, or else to the working directory."""
    if isinstance(source, Source):
        place = source.path
    else:
        place = None if source.startswith((BUILTIN, HUB)) else source
    if place is None:
        return None
    path = expand_home(place)
    folder = None if directory == HUB_DIRECTORY else directory
    within = expand_home(folder) / path if folder else path
    return within if _exists(within) or not _exists(path) else path


def _exists(path: Path) -> bool:
    try:
        return bool(expand(path, ""))
    except UserError:
        return False


def _task_file(task: str, directory: str) -> Path:
    return expand_home(directory) / "dataset" / task / "test.json"


def _hub_rows(task: str, reading: Reading) -> ReadRows:
    found = read_hub_task(task, training=not reading.is_test)
    return _stored(found, reading, {})


def _builtin_rows(task: str, reading: Reading) -> ReadRows:
    """The rows of a built-in task; one without validation rows has its training rows for them."""
    from smt_ray.builtin import learning
    from smt_ray.builtin.suites import SPLITS, TASKS, generate_rows

    split = "test" if reading.is_test else reading.split
    if task in learning.TASKS:
        rows = learning.generate(task, split)
    elif task in TASKS:
        rows = generate_rows(task, split if split in SPLITS else "train")
    else:
        raise UserError(
            "data.train",
            f"built-in tasks are {', '.join(TASKS)}, new_facts_<number> and new_skill_<number>",
            got=task, fix=f"name one of them, such as {BUILTIN}{TASKS[0]}",
        )  # fmt: skip
    return parse_records(rows, f"{BUILTIN}{task}", reading)
