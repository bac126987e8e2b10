"""The progress board: an actor on the driver's node that needs no CPU.

Workers report their progress to it without waiting. It also sends their records to the writer of
tracking.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from smt_ray.documents.run import Record


class Board:
    """The progress of every task, by worker.

    Args:
        writer: The actor of :class:`smt_ray.cluster.writer.Writer`, or None without tracking.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._progress: dict[str, dict[int, tuple[int, str]]] = {}
        self._starts: dict[str, dict[int, list[int]]] = {}
        self._measured: dict[str, dict[int, Record]] = {}
        self._deaths: dict[str, list[str]] = {}
        self._places: dict[str, Any] = {}

    def start(self, task: str, worker: int, pid: int) -> None:
        """Notes that a worker starts a task, for the first time or after it was lost."""
        self._starts.setdefault(task, {}).setdefault(worker, []).append(pid)
        self._progress.setdefault(task, {})[worker] = (0, "")

    def update(self, task: str, worker: int, done: int, text: str = "") -> None:
        """Notes how many units of a task a worker has done."""
        self._progress.setdefault(task, {})[worker] = (done, text)

    def done(self, task: str) -> tuple[int, str]:
        """The number of units that all workers of a task have done, and the latest text."""
        workers = list(self._progress.get(task, {}).values())
        texts = [text for _, text in workers if text]
        return sum(done for done, _ in workers), texts[-1] if texts else ""

    def starts(self, task: str) -> dict[int, list[int]]:
        """The process ids of each worker's attempts at a task, in order."""
        return self._starts.get(task, {})

    def died(self, task: str, reason: str) -> None:
        """Notes that processes of a task died for lack of memory."""
        self._deaths.setdefault(task, []).append(reason)

    def deaths(self, task: str) -> list[str]:
        """The reasons that :meth:`died` noted."""
        return self._deaths.get(task, [])

    def hold(self, task: str, place: Any) -> None:
        """Notes the placement group of a task's processes."""
        self._places[task] = place

    def place(self, task: str) -> Any:
        """The placement group of a task's latest processes; None if it is not known."""
        return self._places.get(task)

    def measure(self, task: str, record: Record) -> None:
        """Keeps the record of one step; a step that is repeated replaces its record."""
        self._measured.setdefault(task, {})[record["step"]] = record

    def measured(self, task: str) -> list[Record]:
        """The records of a task in the order of steps. They are sent to the writer, too."""
        records = [record for _, record in sorted(self._measured.get(task, {}).items())]
        self.records(records)
        return records

    def records(self, records: list[Record]) -> None:
        """Sends records to the writer."""
        if self._writer is not None:
            self._writer.records.remote(records)


def make_board(writer: Any = None) -> Any:
    """Starts the board; see :class:`Board`."""
    return beside_the_driver(Board, writer)


def beside_the_driver(actor: type, argument: Any) -> Any:
    """Starts an actor on the driver's node, which needs no CPU; returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=here).remote(argument)


def announce(board: Any, task: str, worker: int) -> None:
    """Tells the board that this process starts a task as the given worker."""
    if board is not None:
        board.start.remote(task, worker, os.getpid())
