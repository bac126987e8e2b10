"""Claims about sums over places, with tasks that finish in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from smt_ray.stages import chain as chain_module
from smt_ray.stages.chain import Chain


class Value:
    """Stands in for a reference, whose value is ready after some looks at it."""

    def __init__(self, world: World, value: Any) -> None:
        self.value, self._delay = value, world.random.randrange(4)

    def is_ready(self) -> bool:
        self._delay -= 1
        return self._delay < 0


class Stream:
    """Stands in for a stream that makes at most one item ahead."""

    def __init__(self, world: World, place: int, items: Sequence[Any]) -> None:
        self._world, self.place, self._items = world, place, list(items)
        self.num_taken, self._next = 0, Value(world, None)

    def is_ready(self) -> bool:
        return self.is_done or (self.is_running and self._next.is_ready())

    @property
    def is_running(self) -> bool:
        return self._world.may_run(self.place)

    def __next__(self) -> Value:
        if self.num_taken == len(self._items):
            raise StopIteration
        self.num_taken += 1
        self._next = Value(self._world, None)
        return Value(self._world, self._items[self.num_taken - 1])

    @property
    def is_done(self) -> bool:
        return self.num_taken == len(self._items)


class World:
    """Stands in for Ray.

    Args:
        num_running: The number of streams that run at the same time; the others wait for a place.
    """

    def __init__(self, seed: int, num_places: int, num_items: int, num_running: int) -> None:
        self.random = random.Random(seed)
        self.streams = [
            Stream(self, place, [f"{place}.{item} " for item in range(num_items)])
            for place in range(num_places)
        ]
        self._num_running, self._num_looks = num_running, 0
        self.added: list[tuple[int, str]] = []
        self.most_held = 0

    def may_run(self, place: int) -> bool:
        waiting = [stream.place for stream in self.streams if not stream.is_done]
        return place in waiting[: self._num_running]

    def wait(self, awaited: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        self._num_looks += 1
        assert self._num_looks < 100_000, "it waits for something that never comes"
        ready = [each for each in awaited if each.is_ready()]
        return ready, [each for each in awaited if each not in ready]

    def get(self, value: Value) -> Any:
        if isinstance(value.value, Exception):
            raise value.value
        return value.value

    def add(self, place: int, total: Value, item: Value) -> Value:
        self.added.append((place, item.value))
        first, last = self.streams[0], self.streams[-1]
        self.most_held = max(self.most_held, first.num_taken - last.num_taken)
        return Value(self, total.value + item.value)


def run(world: World, monkeypatch: pytest.MonkeyPatch, num_items: int, **options: Any) -> list[Any]:
    ray = SimpleNamespace(wait=world.wait, get=world.get)
    monkeypatch.setattr(chain_module, "ray", ray)
    return [total.value for total in Chain(world.streams, num_items, world.add, **options)]


@pytest.mark.parametrize("num_places", [1, 2, 5])
@pytest.mark.parametrize("seed", range(5))
def test_every_item_is_added_once_in_the_order_of_the_places(
    num_places: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(seed, num_places, 20, num_running=num_places)
    expected = ["".join(f"{place}.{i} " for place in range(num_places)) for i in range(20)]
    assert run(world, monkeypatch, 20) == expected


@pytest.mark.parametrize("num_places", [2, 8])
def test_a_place_holds_few_items_however_many_there_are(
    num_places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two places at most one total waits, whose items were taken."""
    for num_items in (20, 200):
        world = World(0, num_places, num_items, num_running=num_places)
        run(world, monkeypatch, num_items)
        assert world.most_held <= 3 * num_places


def test_streams_that_wait_for_the_place_of_another_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 3, 20, num_running=1)
    totals = run(world, monkeypatch, 20, is_complete=lambda: False)
    assert totals == [f"0.{i} 1.{i} 2.{i} " for i in range(20)]


def test_the_error_of_a_stream_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 2, 20, num_running=2)
    world.streams[1]._items[3:] = [ValueError("the loss must be finite")]
    world.add = lambda _place, total, _item: total
    with pytest.raises(ValueError, match="the loss must be finite"):
        run(world, monkeypatch, 20)
