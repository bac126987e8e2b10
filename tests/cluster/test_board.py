"""The board adds up the progress of workers, and sends their records to the writer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from smt_ray.cluster.board import Board
from smt_ray.documents.run import Record
from smt_ray.tracking.records import make_record


def record(step: int, value: float = 1.0) -> Record:
    return make_record(step, {"x": value}, time_ms=step)


def test_the_progress_of_a_task_is_that_of_all_its_workers() -> None:
    board = Board(None)
    assert board.done("training") == (0, "")
    board.update("training", 0, 3, "loss 1.0")
    board.update("training", 1, 4)
    board.update("evaluation", 0, 9)
    assert board.done("training") == (7, "loss 1.0")


def test_a_worker_that_starts_again_starts_from_nothing() -> None:
    board = Board(None)
    board.start("training", 0, 100)
    board.update("training", 0, 3, "loss 1.0")
    board.start("training", 0, 200)
    assert board.done("training") == (0, "")
    assert board.starts("training") == {0: [100, 200]}
    assert board.starts("evaluation") == {}


def test_measured_records_come_in_the_order_of_steps_and_a_repeated_step_counts_once() -> None:
    sent: list[Any] = []
    writer = SimpleNamespace(records=SimpleNamespace(remote=sent.append))
    board = Board(writer)
    for each in (record(2), record(1), record(2, 5.0)):
        board.measure("warm-up", each)
    assert board.measured("warm-up") == [record(1), record(2, 5.0)]
    assert sent == [[record(1), record(2, 5.0)]]
    board.records([record(3)])
    assert sent[1:] == [[record(3)]]


def test_without_a_writer_records_are_only_kept() -> None:
    board = Board(None)
    board.records([record(1)])
    board.measure("warm-up", record(1))
    assert board.measured("warm-up") == [record(1)]
