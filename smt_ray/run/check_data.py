"""``smt-ray check-data``: finds rows that are there twice, and known test questions."""

from __future__ import annotations

from functools import partial

from smt_ray.config.run import RunConfig
from smt_ray.data.overlap import RowSet, find_duplicates, find_overlaps
from smt_ray.data.splits import read_split
from smt_ray.data.table import Rows
from smt_ray.documents.overlaps import Duplicates, OverlapReport, TaskOverlap
from smt_ray.evaluation.answers import is_correct
from smt_ray.evaluation.test_rows import TestRows, read_tests


def check_data(config: RunConfig) -> OverlapReport:
    """Compares the rows of a config with each other; no model is loaded.

    Raises:
        UserError: Rows or tasks cannot be read.
    """
    split, tests = read_split(config.data, config.seed), read_tests(config)
    sets = {"training": split.training, "validation": split.validation}
    sets |= {task: Rows.of(test.rows) for task, test in tests.items()}
    return OverlapReport(
        num_training_rows=len(split.training),
        num_validation_rows=len(split.validation),
        duplicates=_duplicates([RowSet(name, rows) for name, rows in sets.items() if len(rows)]),
        tasks={name: _overlap(split.training, t) for name, t in tests.items()},
    )


def _duplicates(sets: list[RowSet]) -> list[Duplicates]:
    """The duplicates within each set, and of each in those before it."""
    pairs = [(one, other) for i, one in enumerate(sets) for other in (one, *sets[:i])]
    return [find_duplicates(one, other) for one, other in pairs]


def _overlap(training: Rows, test: TestRows) -> TaskOverlap:
    found = find_overlaps(training, test.rows, partial(is_correct, test.task))
    return TaskOverlap(
        num_rows=len(test.rows),
        num_found=len(found),
        num_same_answer=sum(question.same_answer for question in found),
        found=found,
    )
