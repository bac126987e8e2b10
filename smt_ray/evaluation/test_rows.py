"""The test rows of a config's tasks, read once for all runs that share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache, cached

from smt_ray.config.run import RunConfig
from smt_ray.data.rows import Row, digest_rows
from smt_ray.data.sources import read_task_rows, task_version
from smt_ray.errors import UserError
from smt_ray.evaluation.tasks import Task, find_tasks


@dataclass(frozen=True)
class TestRows:
    """The test rows of one task.

    Attributes:
        rows: The rows.
        digest: Their fingerprint.
        max_new_tokens: The most tokens that are generated for a row.
    """

    __test__ = False  # no class of pytest's

    rows: Sequence[Row]
    digest: str
    max_new_tokens: int


def read_tests(config: RunConfig) -> dict[str, TestRows]:
    """The test rows of the config's tasks, by task.

    Raises:
        UserError: A task is unknown, its file is missing or bad, or it cannot be scored by the
            protocol that the config asks for.
    """
    evaluation, tasks = config.evaluation, find_tasks(config.evaluation.tasks)
    for key in ("base_likelihood", "tuned_likelihood"):
        if getattr(evaluation, key):
            for task in tasks:
                check_candidates(task, f"evaluation.{key}", got=True, fix="set it to false")
    return {
        task.name: _read_task(
            task,
            config.data.dir,
            evaluation.max_rows,
            evaluation.max_new_tokens,
            tuple(config.data.ignore_columns),
        )
        for task in tasks
    }


def check_candidates(task: Task, field: str, *, got: Any, fix: str) -> None:
    """Refuses to score a task by likelihood if it has no candidates.

    Args:
        task: The task that is to be scored.
        field: The key or flag that asks for likelihood, with the value ``got``.
        fix: The advice for the user, such as "set it to false".

    Raises:
        UserError: The task is answered in prose.
    """
    if task.candidates is None:
        raise UserError(
            field,
            f"{task.name} has no closed set of answers to choose from",
            got=got,
            fix=f"{fix}, or leave the task out",
        )


def _key(
    task: Task,
    directory: str | None,
    max_rows: int | None,
    limit: int | None,
    ignored: tuple[str, ...],
) -> tuple[object, ...]:
    version = task_version(task.name, directory, builtin=task.suite == "builtin")
    return task.name, directory, max_rows, limit, ignored, version


@cached(LRUCache(maxsize=64), key=_key)
def _read_task(
    task: Task,
    directory: str | None,
    max_rows: int | None,
    limit: int | None,
    ignored: tuple[str, ...],
) -> TestRows:
    builtin = task.suite == "builtin"
    rows = read_task_rows(task.name, directory, builtin=builtin, ignored=ignored)[:max_rows]
    return TestRows(rows, digest_rows(rows), limit or task.max_new_tokens)
