"""The progress of trials: printed as lines, and written into the search's record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray import tune

from smt_ray.documents.search import FAILED, FINISHED, RUNNING, STOPPED, Point, TrialEntry
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.values import settings_text
from smt_ray.search.trial import METRIC, POINT, STEP, TRAINED
from smt_ray.search.trial_record import TrialRecord


class TrialProgress(tune.Callback):  # type: ignore[misc]
    """Prints a line for every event of a trial, and writes down its status."""

    def __init__(self, record: TrialRecord, num_trials: int) -> None:
        self._record, self._num_before = record, len(record.entries)
        self._num_trials = num_trials
        self._numbers: dict[str, int] = {}
        self._started: dict[str, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial starts."""
        numbers = {each.trial_id: i for i, each in enumerate(trials, self._num_before + 1)}
        self._numbers |= numbers
        self._started[trial.trial_id] = time.monotonic()
        number = numbers[trial.trial_id]
        say(f"trial {number} of {self._num_trials}: {settings_text(_point(trial))}")
        self._record.put(TrialEntry(id=trial.trial_id, point=_point(trial), status=RUNNING))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called when a trial reports a validation loss."""
        if METRIC in result:
            number = self._numbers.get(trial.trial_id)
            say(f"trial {number}: step {result[STEP]}, validation loss {result[METRIC]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial is trained or was stopped early."""
        is_trained = trial.last_result.get(TRAINED)
        self._put(
            TrialEntry(
                id=trial.trial_id, point=_point(trial), status=FINISHED if is_trained else STOPPED
            )
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a trial fails; the others continue."""
        reason = _reason(Path(trial.error_file))
        say(f"trial {self._numbers.get(trial.trial_id)}: FAILED ({reason})")
        self._put(TrialEntry(id=trial.trial_id, point=_point(trial), status=FAILED, error=reason))

    def _put(self, entry: TrialEntry) -> None:
        """Writes down an ended trial with its duration."""
        if (started := self._started.get(entry.id)) is not None:
            seconds = round(time.monotonic() - started, 1)
            entry = entry.model_copy(update={"seconds": seconds})
        self._record.put(entry)


def _point(trial: Any) -> Point:
    point: Point = trial.config.get(POINT, trial.config)
    return point


def _reason(errors: Path) -> str:
    """The message of the exception that a trial raised: the last line of Ray Tune's error file."""
    line = errors.read_text().strip().rpartition("\n")[2]
    return line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
