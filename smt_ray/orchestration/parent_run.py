"""The run in MLflow that a comparison's runs, or a search's trials, are shown under."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import ray

from smt_ray.artifacts.storage import Storage
from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig
from smt_ray.orchestration.board import make_writer
from smt_ray.orchestration.progress import say
from smt_ray.orchestration.run_record import user_name
from smt_ray.orchestration.tracker import tracker_arguments
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
        """Sends what came out, and closes the run.

        Args:
            status: How it ended.
            final_metrics: By name.
            files: Artifacts, as the storage names them.
            summary: What the run's page shows above all else, as Markdown.
        """
        if self._writer is None:
            return
        start = self._start()
        if summary:
            start["tags"]["mlflow.note.content"] = as_description(summary)
        with ExitStack() as copies:  # which the writer's process reads
            snapshot = RunSnapshot(
                **start,
                run_id=self.run_id,
                status=status,
                ended_ms=time.time_ns() // 1_000_000,
                final_metrics=dict(final_metrics or {}),
                artifacts=[
                    (str(copies.enter_context(self.storage.local(file))), None) for file in files
                ],
            )
            sent = ray.get(self._writer.finish.remote(snapshot, _PATIENCE_S))
        if not sent["sent"]:
            say(f"WARNING tracking: MLflow did not take everything ({sent['error']})")

    def _start(self) -> dict[str, Any]:
        kind = "search" if isinstance(self._config, SearchConfig) else "comparison"
        return {
            "name": f"{self._config.name} ({kind})",  # a search may have a comparison's name
            "key": self.storage.uri(self.folder),
            "params": config_params(self._config.model_dump(mode="json")),
            "tags": {"kind": kind, "mlflow.source.name": "smt-ray", "mlflow.user": user_name()},
            "started_ms": self._started_ms,
        }
