"""The test rows of a config's tasks, read once for all runs that share them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cachetools import LRUCache, cached

from smt_ray.config.data import DataConfig
from smt_ray.config.run import RunConfig
from smt_ray.config.tasks import OwnTask
from smt_ray.data.rows import Row, digest_rows
from smt_ray.data.sources import (
    Reading,
    read_sources,
    read_task_rows,
    source_version,
    task_version,
)
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import expected_answer
from smt_ray.evaluation.tasks import Task, find_tasks, own_task


@dataclass(frozen=True)
class TestRows:
    """The test rows of one task.

    Attributes:
        task: The task.
        rows: The rows, each with the answer that is expected.
        digest: The fingerprint of the rows, and of how a task of the user's own is asked.
        max_new_tokens: The most tokens that are generated for a row.
    """

    __test__ = False  # no class of pytest's

    task: Task
    rows: Sequence[Row]
    digest: str
    max_new_tokens: int


def read_tests(config: RunConfig) -> dict[str, TestRows]:
    """The test rows of the config's tasks, by task.

    Raises:
        UserError: A task is unknown, its file is missing or bad, a row expects what cannot be an
            answer, or a task cannot be scored by the protocol that the config asks for.
    """
    evaluation, entries = config.evaluation, find_tasks(config.evaluation.tasks)
    for key in ("base_likelihood", "tuned_likelihood"):
        if getattr(evaluation, key):
            check_candidates(config, f"evaluation.{key}", got=True, fix="set it to false")
    limits = (evaluation.max_rows, evaluation.max_new_tokens)
    return {
        name: _read_own(entry, config.data, *limits)
        if isinstance(entry, OwnTask)
        else _read_task(entry, config.data, *limits)
        for name, entry in entries.items()
    }


def check_candidates(config: RunConfig, field: str, *, got: Any, fix: str) -> None:
    """Refuses to score tasks by likelihood if one has no candidates.

    Args:
        config: The config with the tasks.
        field: The key or flag that asks for likelihood, with the value ``got``.
        fix: The advice for the user, such as "set it to false".

    Raises:
        UserError: A task is answered in prose.
    """
    for entry in find_tasks(config.evaluation.tasks).values():
        task = own_task(entry) if isinstance(entry, OwnTask) else entry
        if task.candidates is None:
            raise UserError(
                field,
                f"{task.name} has no closed set of answers to choose from",
                got=got,
                fix=f"{fix}, or leave the task out",
            )


def _key(
    task: Task, data: DataConfig, max_rows: int | None, limit: int | None
) -> tuple[object, ...]:
    version = task_version(task.name, data.dir, builtin=task.is_builtin)
    return task.name, data.dir, max_rows, limit, tuple(data.ignore_columns), version


@cached(LRUCache(maxsize=64), key=_key)
def _read_task(task: Task, data: DataConfig, max_rows: int | None, limit: int | None) -> TestRows:
    """The rows of a published or built-in task."""
    builtin = task.is_builtin
    rows = read_task_rows(task.name, data.dir, builtin=builtin, ignored=data.ignore_columns)
    answered = _answered(task, rows[:max_rows])
    return TestRows(task, answered, digest_rows(answered), limit or task.max_new_tokens)


def _own_key(
    entry: OwnTask, data: DataConfig, max_rows: int | None, limit: int | None
) -> tuple[object, ...]:
    version = source_version(entry.rows, data.dir)
    ignored = tuple(data.ignore_columns)
    return entry.model_dump_json(), data.dir, max_rows, limit, ignored, version


@cached(LRUCache(maxsize=64), key=_own_key)
def _read_own(
    entry: OwnTask, data: DataConfig, max_rows: int | None, limit: int | None
) -> TestRows:
    """The rows of a task of the user's own."""
    task = own_task(entry)
    reading = Reading(data.dir, tuple(data.ignore_columns), split="test", is_test=True)
    rows = read_sources([entry.rows], reading, f"evaluation.tasks, {entry.name}, rows").rows
    answered = _answered(task, rows[:max_rows])
    asked = entry.model_dump_json(exclude={"rows", "name", "max_new_tokens"})
    digest = hashlib.sha256(f"{digest_rows(answered)} {asked}".encode()).hexdigest()
    return TestRows(task, answered, digest, entry.max_new_tokens or limit or task.max_new_tokens)


def _answered(task: Task, rows: Sequence[Row]) -> list[Row]:
    """The rows with the answer that the task's rule expects of each."""
    return [replace(row, answer=expected_answer(task, row)) for row in rows]
