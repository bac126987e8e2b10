"""What to do when Ray Train ends with a failure: try again, wait, or tell the user."""

from __future__ import annotations

from typing import Any

import ray
import ray.train
from ray.util.placement_group import remove_placement_group

from smt_ray.artifacts.patience import is_away
from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.memory import errors_behind, is_death_by_memory, out_of_memory
from smt_ray.cluster.session import logs_folder
from smt_ray.cluster.waiting import found_no_place
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say

_ROUNDS = 5  # attempts: other work may take the place that was waited for


class TrainFailures:
    """The failures of one training; Ray Train itself replaces lost ranks.

    Args:
        kind: The stage.
        max_failures: The number of times that a lost controller or an absent storage is survived.
        storage: The storage of the checkpoints.
        board: The progress board.
    """

    def __init__(self, kind: str, max_failures: int, storage: Storage, board: Any) -> None:
        self._kind, self._max_failures = kind, max_failures
        self._storage, self._board = storage, board
        self._num_failures = self._num_without_place = 0

    def recover(self, error: BaseException) -> None:
        """Returns if the training can be tried again, from its latest checkpoint.

        Args:
            error: What the ``fit`` of Ray Train raised.

        Raises:
            UserError: It cannot, and why.
            BaseException: The error, if it is a defect of ours.
        """
        if found_no_place(error):
            self._num_without_place += 1
            if self._num_without_place >= _ROUNDS:
                raise self._lost(error) from error
        elif any(map(is_death_by_memory, errors_behind(error))):
            raise out_of_memory(self._kind, " ".join(map(str, errors_behind(error)))) from error
        elif not self._storage.is_local and any(map(is_away, errors_behind(error))):
            self._count(error)
            say(f"{self._kind}: the storage did not answer; waiting for it")
            self._storage.exists()
        elif isinstance(error, ray.exceptions.RayActorError):  # the controller
            self._count(error)
            say(f"{self._kind}: the controller of Ray Train was lost, and is started again")
            # Ray frees the place of its ranks only in sessions with a dashboard.
            if place := ray.get(self._board.place.remote(self._kind)):
                remove_placement_group(place)
        elif _raised_by_our_code(error):
            raise error
        else:
            raise self._lost(error) from error

    def _count(self, error: BaseException) -> None:
        self._num_failures += 1
        if self._num_failures > self._max_failures:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> UserError:
        last_line = str(error).strip().rsplit("\n", 1)[-1]
        return UserError(
            self._kind,
            f"workers failed more than resources.max_failures ({self._max_failures}) times:"
            f" {last_line}",
            fix=f"see Ray's logs ({logs_folder()} on each node); start the same run again to resume"
            " from the latest checkpoint",
        )


def _raised_by_our_code(error: BaseException) -> bool:
    """Whether a rank raised an error, which is a defect; otherwise a rank died."""
    failures = getattr(error, "worker_failures", {}).values()
    return any(not type(failure).__module__.startswith("ray.") for failure in failures)
