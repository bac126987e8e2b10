"""The run in MLflow that a comparison's runs, or a search's trials, are shown under."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import ray

from smt_ray.artifacts.storage import Storage
from smt_ray.cluster.board import make_writer
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.reporting.text.progress import say
from smt_ray.run.record import user_name
from smt_ray.tracking.connect import tracker_arguments
from smt_ray.tracking.params import as_description, config_params
from smt_ray.tracking.protocol import Status
from smt_ray.tracking.replay import RunSnapshot

_PATIENCE_S = 60.0


class ParentRun:
    """A group of runs: its folder in the storage and, where they are tracked, its own run.

    Args:
        config: The group's configuration.
        folder: Its folder, as the storage names it.
        run: One of its runs, which says where storage and tracking are.

    Attributes:
        storage: Where its folder lies.
        folder: As given.
        run_id: MLflow's, which its runs name; None where nothing is tracked.
    """

    def __init__(
        self, config: ComparisonConfig | SearchConfig, folder: str, run: RunConfig
    ) -> None:
        self.storage, self.folder = Storage(run.storage), folder
        self.run_id: str | None = None
        self._config = config
        self._kind = "search" if isinstance(config, SearchConfig) else "comparison"
        self._started_ms = time.time_ns() // 1_000_000
        self._writer: Any = None
        if tracker := tracker_arguments(run, self.storage):
            self._writer = make_writer(tracker)
            self.run_id = ray.get(self._writer.start_run.remote(self._start()))

    def end(
        self,
        status: Status,
        final_metrics: Mapping[str, float] | None = None,
        files: Sequence[str] = (),
        summary: str = "",
    ) -> None:
        """Sends what came out, and closes the run; warns where the store does not take it.

        Args:
            status: How it ended.
            final_metrics: By name.
            files: Artifacts, as the storage names them.
            summary: What the run's page shows above all else, as Markdown.
        """
        if self._writer is None:
            return
        try:
            sent = self._finish(status, dict(final_metrics or {}), files, summary)
        except Exception as error:  # whatever it is, what came out is written, or was an error
            sent = {"sent": False, "error": str(error).strip().rpartition("\n")[2]}
        if not sent["sent"]:
            say(
                f"WARNING tracking: MLflow did not take everything ({sent['error']}); nothing is"
                f" lost: start the same {self._kind} again once it answers, which skips what is"
                " finished and sends the rest"
            )

    def _finish(
        self, status: Status, final_metrics: dict[str, float], files: Sequence[str], summary: str
    ) -> dict[str, Any]:
        """What the writer says of it; see :meth:`end`."""
        start = self._start()
        if summary:
            start["tags"]["mlflow.note.content"] = as_description(summary)
        with ExitStack() as copies:  # which the writer's process reads
            snapshot = RunSnapshot(
                **start,
                run_id=self.run_id,
                status=status,
                ended_ms=time.time_ns() // 1_000_000,
                final_metrics=final_metrics,
                artifacts=[
                    (str(copies.enter_context(self.storage.local(file))), None) for file in files
                ],
            )
            sent: dict[str, Any] = ray.get(self._writer.finish.remote(snapshot, _PATIENCE_S))
        return sent

    def _start(self) -> dict[str, Any]:
        return {
            "name": f"{self._config.name} ({self._kind})",  # a search may have a comparison's name
            "key": self.storage.uri(self.folder),
            "params": config_params(self._config.model_dump(mode="json")),
            "tags": {
                "kind": self._kind,
                "mlflow.source.name": "smt-ray",
                "mlflow.user": user_name(),
            },
            "started_ms": self._started_ms,
        }
