"""Two zero-CPU actors beside the driver: the notice board, and the one writer of tracking.

Workers tell the board how far they are and hand it records in batches, which it passes on; nobody
waits for either. They are two, since a store that is slow must not hold up the board.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from smt_ray.tracking.uris import redact


class Board:
    """Progress by task and worker.

    Args:
        writer: The actor of :class:`Writer`, or None where nothing is tracked.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._progress: dict[str, dict[int, tuple[int, str]]] = {}
        self._starts: dict[str, dict[int, list[int]]] = {}
        self._measured: dict[str, dict[int, Any]] = {}

    def start(self, task: str, worker: int, pid: int) -> None:
        """A worker begins, or begins again after it was lost."""
        self._starts.setdefault(task, {}).setdefault(worker, []).append(pid)
        self._progress.setdefault(task, {})[worker] = (0, "")

    def update(self, task: str, worker: int, done: int, text: str = "") -> None:
        """A worker has done ``done`` of its units."""
        self._progress.setdefault(task, {})[worker] = (done, text)

    def done(self, task: str) -> tuple[int, str]:
        """Units done over all workers of a task, and the latest text."""
        workers = list(self._progress.get(task, {}).values())
        texts = [text for _, text in workers if text]
        return sum(done for done, _ in workers), texts[-1] if texts else ""

    def starts(self, task: str) -> dict[int, list[int]]:
        """Process ids of each worker's attempts at a task, first to last."""
        return self._starts.get(task, {})

    def measure(self, task: str, record: Any) -> None:
        """Keeps a worker's record of one step; a step that is done again replaces it."""
        self._measured.setdefault(task, {})[record["step"]] = record

    def measured(self, task: str) -> list[Any]:
        """The records of a task, by step; they go to the tracker too."""
        records = [record for _, record in sorted(self._measured.get(task, {}).items())]
        self.records(records)
        return records

    def records(self, records: list[Any]) -> None:
        """Hands records to the writer."""
        if self._writer is not None:
            self._writer.records.remote(records)


class Writer:
    """The tracked run.

    Args:
        tracker: Arguments of :func:`smt_ray.tracking.connect.open_tracker`.
    """

    def __init__(self, tracker: dict[str, Any]) -> None:
        from smt_ray.tracking.connect import open_tracker

        self._tracker = open_tracker(**tracker)

    def start_run(self, run: dict[str, Any]) -> str | None:
        """Starts or continues the run; MLflow's id of it, where the store answers in time."""
        return self._tracker.start_run(run.pop("name"), **run)

    def records(self, records: list[Any]) -> None:
        """Adds records."""
        self._tracker.log_records(records)

    def finish(self, snapshot: Any, timeout: float) -> dict[str, Any]:
        """Sends what the run left on disk, waiting at most ``timeout`` seconds."""
        from smt_ray.tracking.replay import replay

        replay(self._tracker, snapshot)
        sent = self._tracker.close(timeout)
        return {
            "sent": sent and not self._tracker.lost,
            "error": redact(str(self._tracker.last_error or "")),
            "run_id": self._tracker.run_id,
            "url": self._tracker.run_url(),
        }


def make_board(writer: Any = None) -> Any:
    """Starts the board.

    Args:
        writer: The actor that :func:`make_writer` started, or None.
    """
    return _beside_the_driver(Board, writer)


def make_writer(tracker: dict[str, Any]) -> Any:
    """Starts the writer, on the driver's node, where a local store is.

    Args:
        tracker: Arguments of :func:`smt_ray.tracking.connect.open_tracker`.
    """
    return _beside_the_driver(Writer, tracker)


def _beside_the_driver(actor: type, argument: Any) -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=here).remote(argument)


def announce(board: Any, task: str, worker: int) -> None:
    """Tells the board that this process begins a worker's part of a task."""
    if board is not None:
        board.start.remote(task, worker, os.getpid())
