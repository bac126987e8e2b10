"""The tasks of ``evaluation.lm_eval``, loaded and checked before anything is computed."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachetools import LRUCache, cached

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

FIELD = "evaluation.lm_eval"
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class HarnessTasks:
    """The tasks of lm-evaluation-harness that a config asks.

    Attributes:
        loaded: The tasks and groups, as lm-evaluation-harness loads them.
        digests: Task or group -> the fingerprint of its definition and of its rows.
        num_rows: Task -> the number of rows that are asked.
        num_new_tokens: Task -> the largest number of tokens that the model generates for a row.
        limit: The number of rows of each task, from its beginning; None for all.
    """

    loaded: Any
    digests: dict[str, str]
    num_rows: dict[str, int]
    num_new_tokens: dict[str, int]
    limit: int | None


def read_harness(config: RunConfig) -> HarnessTasks | None:
    """The tasks of a config with their rows; None without tasks.

    Raises:
        UserError: lm-evaluation-harness is not installed, a task is unknown or cannot be loaded, or
            it needs what is not offered here.
    """
    entries = tuple(config.evaluation.lm_eval)
    if not entries:
        return None
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            FIELD, "needs the package lm-eval", got=list(entries),
            fix="pip install 'smt-ray[lm-eval]'",
        )  # fmt: skip
    return _read(entries, config.evaluation.max_rows)


def _key(entries: Sequence[str], limit: int | None) -> tuple[object, ...]:
    files = [place for entry in entries if (place := _file(entry))]
    versions = [(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return tuple(entries), limit, tuple(versions)


@cached(LRUCache(maxsize=4), key=_key)
def _read(entries: Sequence[str], limit: int | None) -> HarnessTasks:
    """The tasks, read once for all runs that share them."""
    from smt_ray.evaluation.harness import library

    places = {entry: _file(entry) for entry in entries}
    groups = {file: group for file in places.values() if file and (group := _group(file))}
    has_names = bool(groups) or None in places.values()
    catalogue = library.catalogue([file.parent for file in groups], published=has_names)
    for entry, file in places.items():
        if file is None and entry not in catalogue.task_index:
            raise UserError(
                FIELD, "must be a task, group or tag of lm-evaluation-harness, or a YAML file",
                got=entry, fix="lm-eval ls tasks lists the names",
            )  # fmt: skip
    # The library loads a group by its name only.
    specs = {
        entry: groups.get(file, str(file)) if file else entry for entry, file in places.items()
    }
    return _described(_load(specs, catalogue), limit)


def _load(specs: Mapping[str, str], catalogue: Any) -> Any:
    """Loads the tasks of entries; an error names its entry."""
    from smt_ray.evaluation.harness.library import load_tasks

    try:
        return load_tasks(list(specs.values()), catalogue)
    except Exception as error:  # also of code that belongs to a task
        for entry, spec in specs.items():
            with _explained(entry):
                load_tasks([spec], catalogue)
        raise _not_loaded(list(specs), error) from error


def _described(loaded: Any, limit: int | None) -> HarnessTasks:
    from smt_ray.evaluation.harness import library

    digests, num_rows, new_tokens = {}, {}, {}
    for name, task in loaded["tasks"].items():
        _check_name(name)
        if reason := library.refused_kind(task):
            raise UserError(FIELD, f"must not name a task that {reason}", got=name)
        with _explained(name):
            digests[name] = _digest(library.content(task, limit))
            num_rows[name] = library.num_rows(task, limit)
            new_tokens[name] = library.num_new_tokens(task)
    for name, group in loaded.get("groups", {}).items():
        _check_name(name)
        digests[name] = _digest(library.group_content(group))
    return HarnessTasks(loaded, digests, num_rows, new_tokens, limit)


def _file(entry: str) -> Path | None:
    """The file of an entry; None if the entry is a name.

    Raises:
        UserError: There is no such file.
    """
    if not entry.endswith(_SUFFIXES):
        return None
    file = Path(entry).expanduser().resolve()
    if not file.is_file():
        raise UserError(FIELD, "must be an existing YAML file", got=entry, fix="check the path")
    return file


def _group(file: Path) -> str | None:
    """The group that a file makes of tasks beside it, or of published ones; None for a task."""
    found = re.search(r"^group\s*:\s*['\"]?([^'\"\s#]+)", file.read_text("utf-8"), re.MULTILINE)
    return found and found[1]


@contextmanager
def _explained(entry: str) -> Iterator[None]:
    """Turns what fails in the body, perhaps in code of a task's own, into an error of the entry."""
    try:
        yield
    except Exception as error:
        raise _not_loaded(entry, error) from error


def _not_loaded(entry: Any, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300]
    return UserError(
        FIELD, f"cannot be loaded ({type(error).__name__}: {reason})", got=entry,
        fix="correct the task's file; the rows of a published task need the network once",
    )  # fmt: skip


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


def _check_name(name: str) -> None:
    """Refuses a name that cannot be part of a path, since files and metrics are named after it."""
    if not re.fullmatch(r"[\w.:,()+ -]+", name):
        raise UserError(FIELD, "must name tasks with letters, digits, '.', '_' and '-'", got=name)
