"""The run in MLflow that a comparison's runs, or a search's trials, are shown under."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import ray

from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.orchestration.board import make_writer
from smt_ray.orchestration.progress import say
from smt_ray.orchestration.tracker import tracker_arguments
from smt_ray.tracking.params import flatten
from smt_ray.tracking.protocol import Status
from smt_ray.tracking.replay import RunSnapshot

_PATIENCE_S = 60.0
_FOLDERS = {"comparison": "comparisons", "search": "searches"}


class ParentRun:
    """A group of runs: its folder in the storage and, where they are tracked, its own run.

    Args:
        kind: What the group is.
        name: The group's.
        config: Its configuration as plain values.
        run: One of its runs, which says where storage and tracking are.

    Attributes:
        storage: Where its folder lies.
        folder: The folder, as the storage names it.
        run_id: MLflow's, which its runs name; None where nothing is tracked.
    """

    def __init__(
        self,
        kind: Literal["comparison", "search"],
        name: str,
        config: Mapping[str, Any],
        run: RunConfig,
    ) -> None:
        self.storage, self.folder = Storage(run.storage), f"{_FOLDERS[kind]}/{name}"
        self.run_id: str | None = None
        self._kind, self._name, self._config = kind, name, config
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
    ) -> None:
        """Sends what came out, and closes the run.

        Args:
            status: How it ended.
            final_metrics: By name.
            files: Artifacts, as the storage names them.
        """
        if self._writer is None:
            return
        with ExitStack() as copies:  # which the writer's process reads
            snapshot = RunSnapshot(
                **self._start(),
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
        return {
            "name": self._name,
            "key": self.storage.uri(self.folder),
            "params": flatten(dict(self._config)),
            "tags": {"kind": self._kind},
            "started_ms": self._started_ms,
        }
