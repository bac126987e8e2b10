"""``smt-ray check-data``: finds test questions that are also in the training rows."""

from __future__ import annotations

from functools import partial

from smt_ray.config.run import RunConfig
from smt_ray.data.overlap import find_overlaps
from smt_ray.data.splits import read_split
from smt_ray.documents.overlaps import OverlapReport, TaskOverlap
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import is_correct
from smt_ray.evaluation.tasks import find_task
from smt_ray.evaluation.test_rows import read_tests


def check_data(config: RunConfig) -> OverlapReport:
    """Compares the training rows with the test rows of the config's tasks; no model is loaded.

    Raises:
        UserError: Rows or tasks cannot be read, or the config names no task.
    """
    if not config.evaluation.tasks:
        raise UserError(
            "evaluation.tasks",
            "must name the tasks or suites to look for",
            got=[],
            fix="such as evaluation.tasks=[math]",
        )
    training = read_split(config.data, config.seed).training
    tasks = {}
    for task, test in read_tests(config).items():
        found = find_overlaps(training, test.rows, partial(is_correct, find_task(task)))
        tasks[task] = TaskOverlap(
            num_rows=len(test.rows),
            num_found=len(found),
            num_same_answer=sum(question.same_answer for question in found),
            found=found,
        )
    return OverlapReport(num_training_rows=len(training), tasks=tasks)
