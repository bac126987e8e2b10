"""Which learning rate each method of a comparison gets, and what becomes of one that has none."""

from __future__ import annotations

from collections.abc import Mapping

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.comparison.results import Cells, Tuning, validation_loss
from smt_ray.config.comparison import LEARNING_RATE, ComparisonConfig
from smt_ray.config.run import RunConfig
from smt_ray.grid.runs import Outcome
from smt_ray.reporting.text.progress import say


def choose_rates(runs: dict[str, dict[float, RunConfig]], outcomes: dict[str, Outcome]) -> Tuning:
    """Each method's learning rate of the lowest validation loss; none where all of them failed.

    Args:
        runs: Method -> learning rate -> the run that tried it.
        outcomes: What became of these runs, by name.
    """
    chosen = {}
    for method, tried in runs.items():
        losses = {
            rate: loss
            for rate, run in tried.items()
            if (loss := validation_loss(outcomes[run.name])) is not None
        }
        if losses:
            chosen[method] = min(losses, key=losses.__getitem__)
    return Tuning(runs, outcomes, chosen)


def set_untuned_apart(
    config: ComparisonConfig, cells: Cells, tuning: Tuning
) -> tuple[Cells, dict[str, Outcome]]:
    """The cells, and the outcomes of those whose method has no learning rate to be run with.

    Their runs have names of their own: a cell that sets its learning rate itself is run, and what
    was tried keeps its own error.

    Args:
        config: The comparison.
        cells: Its cells.
        tuning: Its learning rates.

    Returns:
        All cells; run -> its outcome, of those that are not to be started.
    """
    reasons = _reasons(tuning)
    settings = {
        (name, row, column): overrides
        for name, table in config.tables.items()
        for row, column, overrides in table.cells()
    }
    found: Cells = []
    failed: dict[str, Outcome] = {}
    for name, row, column, runs in cells:
        reason = reasons.get(runs[0].method)
        if reason and LEARNING_RATE not in settings[name, row, column]:
            runs = [run.model_copy(update={"name": f"{run.name}-untuned"}) for run in runs]
            failed |= {run.name: _not_started(run, reason) for run in runs}
        found.append((name, row, column, runs))
    return found, failed


def _reasons(tuning: Tuning) -> Mapping[str, str]:
    """Method -> why it has no learning rate, which is said."""
    reasons = {}
    for method, tried in tuning.runs.items():
        if method not in tuning.chosen:
            outcomes = (tuning.outcomes[run.name] for run in tried.values())
            errors = dict.fromkeys(o.error or "the validation loss is not finite" for o in outcomes)
            why = "; ".join(errors)
            reasons[method] = f"no learning rate of {method} could be trained: {why}"
            say(f"FAILED {reasons[method]}")
    return reasons


def _not_started(run: RunConfig, reason: str) -> Outcome:
    return Outcome(RunFolder(Storage(run.storage), run.name), {}, error=reason, started=False)
