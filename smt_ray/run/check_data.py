"""``smt-ray check-data``: which test questions a run would be trained on."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from smt_ray.config.run import RunConfig
from smt_ray.data.overlap import find_overlaps
from smt_ray.errors import UserError
from smt_ray.evaluation.answers import is_correct
from smt_ray.evaluation.tasks import find_task
from smt_ray.stages.plan import read_rows, read_tasks


def check_data(config: RunConfig) -> dict[str, Any]:
    """Compares the training rows with the test rows of the config's tasks.

    Args:
        config: A run; no model is loaded and nothing is computed.

    Returns:
        ``num_training_rows``, and by task under ``tasks``: ``num_rows``, ``num_found`` (test
        questions that a training row asks too), ``num_same_answer`` (of them, those whose answer
        it gives), and ``found``, each with ``index``, ``position`` and ``same_answer``.

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
    training, _ = read_rows(config)
    tasks = {}
    for task, rows in read_tasks(config).items():
        found = find_overlaps(training, rows, partial(is_correct, find_task(task)))
        tasks[task] = {
            "num_rows": len(rows),
            "num_found": len(found),
            "num_same_answer": sum(overlap.same_answer for overlap in found),
            "found": [asdict(overlap) for overlap in found],
        }
    return {"num_training_rows": len(training), "tasks": tasks}
