"""Claims about values that are made ahead."""

from __future__ import annotations

import threading

import pytest

from smt_ray.training.ahead import made_ahead


def test_results_come_in_order_and_once() -> None:
    assert list(made_ahead(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
    assert list(made_ahead(str, [])) == []


def test_the_next_one_is_made_while_one_is_used_and_no_more() -> None:
    started = [threading.Event() for _ in range(4)]

    def make(i: int) -> int:
        started[i].set()
        return i

    ahead = made_ahead(make, range(4))
    assert next(ahead) == 0
    assert started[1].wait(10), "the second is made without being asked for"
    assert not started[2].is_set()
    assert list(ahead) == [1, 2, 3]


def test_an_error_is_raised_in_its_place() -> None:
    ahead = made_ahead(lambda x: 1 // x, [1, 0, 1])
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
