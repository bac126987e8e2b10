"""A run's progress board and, where it is tracked, its writer: from its start to its end."""

from __future__ import annotations

from typing import Any

import ray

from smt_ray.artifacts.runs import RunFolder
from smt_ray.cluster.board import make_board, make_writer
from smt_ray.config.run import RunConfig
from smt_ray.reporting.text.progress import say
from smt_ray.run.snapshot import read_snapshot, start_arguments
from smt_ray.tracking.connect import tracker_arguments

_PATIENCE_S = 30.0


class RunTracking:
    """What is told of a run while it is under way.

    Args:
        folder: The run's.
        config: Its configuration.

    Attributes:
        page: Where the run can be seen, once :meth:`finish` was called and the store answered.

    Raises:
        UserError: MLflow cannot use the tracking URI.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        self.page: str | None = None
        self._folder, self._config = folder, config
        self._tracker = tracker_arguments(config, folder.storage)
        self._writer: Any = None

    def start(self) -> Any:
        """Starts the actors; returns the board."""
        self._writer = make_writer(self._tracker) if self._tracker else None
        if self._writer:
            # Not waited for: creating a store takes seconds, which the warm-up needs not lose.
            config = self._config.model_dump(mode="json")
            self._writer.start_run.remote(start_arguments(self._folder, config))
        return make_board(self._writer)

    def finish(self) -> None:
        """Sends what the run left on disk; warns where the store does not take it."""
        if self._writer is None:
            return
        try:
            with read_snapshot(self._folder) as snapshot:
                sent = ray.get(self._writer.finish.remote(snapshot, _PATIENCE_S))
        except Exception as error:  # whatever it is, the run itself is done
            sent = {"sent": False, "error": str(error).strip().rpartition("\n")[2]}
        if sent.get("run_id"):
            self._folder.update(mlflow_run_id=sent["run_id"])
            self.page = sent["url"]
        if not sent["sent"]:
            storage = self._folder.storage.root
            say(
                f"WARNING tracking: MLflow did not take everything ({sent['error']}); nothing is"
                f" lost: smt-ray log {self._folder.name} --storage {storage} sends it"
            )
