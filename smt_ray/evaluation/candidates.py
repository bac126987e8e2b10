"""The answers that the likelihood protocol chooses from, and the completions that state them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from smt_ray.data.rows import Row
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import label_pattern, parse_number
from smt_ray.evaluation.tasks import Task

_OFFERED = re.compile(r"Answer format:\s*(\S+)\s*$")


def answer_pool(rows: Sequence[Row]) -> list[str]:
    """The distinct answers of the rows: numbers by size, then texts.

    It must be made from all rows of a task, before they are split over processes.
    """
    return sorted({row.answer for row in rows}, key=_by_size)


def _by_size(answer: str) -> tuple[bool, float, str]:
    number = parse_number(answer)
    return (number is None, number or 0.0, answer)


def row_candidates(task: Task, row: Row, pool: Sequence[str], name: str) -> list[str]:
    """The answers to choose from for one row.

    Args:
        task: The task with its ``candidates`` rule. By the rule ``labels``, the candidates are the
            labels that the row's "Answer format:" lists, or else all labels of the task. By the
            rule ``answers`` they are the pool.
        row: The row.
        pool: All answers of the task; see :func:`answer_pool`.
        name: The name of the row in errors.

    Raises:
        UserError: The task has no closed set of answers, or the row's answer is not in it.
    """
    if task.candidates is None:
        raise UserError(
            "protocol",
            f"likelihood needs a closed set of answers, and {task.name} has none",
            got="likelihood",
            fix="use protocol generate",
        )
    candidates = _offered_labels(task, row) if task.candidates == "labels" else list(pool)
    if row.answer not in candidates:
        raise UserError(name, f"answer must be one of {', '.join(candidates)}", got=row.answer)
    return candidates


def _offered_labels(task: Task, row: Row) -> list[str]:
    if task.suite == "own":
        return list(task.labels)
    match = _OFFERED.search(row.input or row.instruction)
    offered = match.group(1).split("/") if match else []
    return [label for label in task.labels if label in offered] or list(task.labels)


def complete(task: Task, row: Row, candidate: str, name: str) -> str:
    """The row's output with a candidate in the place of its answer.

    The output of a row of the user's own may state the answer otherwise; then candidates are scored
    alone.

    Raises:
        UserError: The output of a published row does not state the row's answer exactly once.
    """
    if task.suite == "own":
        stated = list(re.finditer(label_pattern(row.answer), row.output, re.IGNORECASE))
        if len(stated) != 1:
            return candidate
        return row.output[: stated[0].start()] + candidate + row.output[stated[0].end() :]
    if not row.answer or row.output.count(row.answer) != 1:
        raise UserError(
            f"{name}, field 'output'",
            f"must state the answer {row.answer!r} exactly once to score candidates in its place",
            got=row.output,
            fix="use protocol generate",
        )
    return row.output.replace(row.answer, candidate)
