"""Cells that cannot be started, because all learning rates of their group failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.comparison import LEARNING_RATE, CellRuns
from smt_ray.config.run import RunConfig
from smt_ray.grid.learning_rates import Tuning
from smt_ray.grid.runs import Outcome
from smt_ray.reporting.text.progress import say


def mark_untuned_as_failed(
    cells: Sequence[CellRuns], tuning: Tuning
) -> tuple[list[CellRuns], dict[str, Outcome]]:
    """Gives the runs of cells without a learning rate names of their own, and marks them as failed.

    They need other names because the runs that tried the learning rates have errors of their own. A
    cell that sets its learning rate is not affected.

    Returns:
        All cells; and run -> its outcome, for the runs that are not started.
    """
    reasons = _reasons(tuning)
    found: list[CellRuns] = []
    failed: dict[str, Outcome] = {}
    for cell in cells:
        reason = reasons.get(cell.rate_group)
        if reason and LEARNING_RATE not in cell.settings:
            runs = [run.model_copy(update={"name": f"{run.name}-untuned"}) for run in cell.runs]
            failed |= {run.name: _not_started(run, reason) for run in runs}
            cell = cell._replace(runs=runs)
        found.append(cell)
    return found, failed


def _reasons(tuning: Tuning) -> Mapping[str, str]:
    """Group without a learning rate -> the reason, which is also printed."""
    reasons = {}
    for group, tried in tuning.runs.items():
        if group not in tuning.chosen:
            outcomes = (tuning.outcomes[run.name] for run in tried.values())
            errors = dict.fromkeys(o.error or "the validation loss is not finite" for o in outcomes)
            reasons[group] = f"every learning rate of {group} failed: {'; '.join(errors)}"
            say(f"FAILED {reasons[group]}")
    return reasons


def _not_started(run: RunConfig, reason: str) -> Outcome:
    return Outcome(RunFolder(Storage(run.storage), run.name), None, error=reason, started=False)
