"""The step with the lowest validation loss among those that have a checkpoint."""

from __future__ import annotations

import math

from smt_ray.artifacts.storage import Storage
from smt_ray.documents.checkpoint import BestStep

SCORE = "checkpoint_score"
"""The name of the metric by which Ray Train compares checkpoints; larger is better."""


_LOWEST = -1e300


def checkpoint_score(loss: float | None) -> float:
    """The score of a checkpoint by its validation loss; the lowest for None and NaN.

    Ray Train would take a checkpoint without a score for the best one if smaller were better, and
    it loses infinite scores when it resumes.
    """
    return _LOWEST if loss is None or not math.isfinite(loss) else -loss


class BestSteps:
    """Remembers the best step in a small file, for one writer.

    Ray Train keeps the checkpoints with the lowest validation losses, so the file only names one.

    Args:
        storage: The storage of the file.
        path: The file, within the storage; it may be that of an earlier attempt.

    Raises:
        UserError: The file of the earlier attempt is damaged.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self.best = self._earlier()

    def offer(self, num_steps: int, loss: float | None) -> None:
        """Remembers a step if its loss is not above that of every earlier one.

        It must be called before a run can resume from the step's checkpoint. A run that is
        interrupted in between then repeats the step and offers it again.

        Args:
            num_steps: The number of finished optimizer steps.
            loss: The validation loss of the last step; None if that step was not validated.
        """
        # Of equal ones Ray Train prefers the later one, too.
        score = checkpoint_score(loss)
        if loss is None or score == _LOWEST or (self.best and score < -self.best.loss):
            return
        self.best = BestStep(num_steps=num_steps, loss=loss)
        self._storage.write_json(self._path, self.best.to_json())

    def _earlier(self) -> BestStep | None:
        if not self._storage.exists(self._path):
            return None
        fix = "delete the file: the next validation writes it again"
        return self._storage.read_document(BestStep, self._path, fix=fix)
