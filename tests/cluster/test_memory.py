"""Deaths for lack of memory: Ray's text becomes one line, and the second one ends the ranks."""

from __future__ import annotations

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from smt_ray.cluster.board import Board
from smt_ray.cluster.memory import (
    is_death_by_memory,
    memory_explained,
    out_of_memory,
)
from smt_ray.errors import UserError

TEXT = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP:"
    " 127.0.0.1, ID: 47dc) was 22.89GB used / 23.54GB limit (0.97), which exceeds 0.95.\n"
    "Selected to kill: (Task: job ID=01000000, task name=compute_shards, required resources={CPU:"
    " 1}, pid=16223, actual memory used=7.03GB, worker ID=bb5d)\n"
    "Top 10 memory users: PID\tMEM(GB)\tCOMMAND"
)


def test_the_line_says_which_process_had_how_much_and_what_makes_it_smaller() -> None:
    error = out_of_memory("warmup", TEXT)
    assert error.field == "warmup"
    assert "22.89 of 23.54 GB of the node were used" in error.rule
    assert "process 16223 (compute_shards) with 7.03 GB" in error.rule
    assert "warmup.accumulate_on" in error.fix
    assert "resumes" in error.fix


def test_a_text_that_ray_words_otherwise_is_still_one_line() -> None:
    line = str(out_of_memory("tokens", "low on memory,\nin other words"))
    assert line.startswith("tokens: ran out of memory")
    assert len(line.splitlines()) == 1


def test_only_deaths_by_memory_become_that_line() -> None:
    with (
        pytest.raises(UserError, match="training: ran out of memory"),
        memory_explained("training"),
    ):
        raise OutOfMemoryError(TEXT)
    with pytest.raises(RayActorError), memory_explained("training"):
        raise RayActorError()
    assert is_death_by_memory(RuntimeError("a task died: the node was running low on memory"))
    assert not is_death_by_memory(MemoryError())


def test_the_board_keeps_the_deaths_and_the_place_of_each_task() -> None:
    board = Board(None)
    board.died("training", TEXT)
    board.died("warmup", TEXT)
    board.hold("training", "place")
    assert board.deaths("training") == [TEXT]
    assert board.deaths("evaluation") == []
    assert board.place("training") == "place"
    assert board.place("warmup") is None
