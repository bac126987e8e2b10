"""Sums over places: what each place streams is added on its way from place to place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

_LOOK_EVERY_S = 5.0
_MOST_WAITING = 1  # totals between two places

Ref = Any
"""A reference to a value in Ray's object store."""


class Adders:
    """A process at each place that adds and reduces, without CPUs of its own.

    Tasks would do, too, but Ray starts a new process for most tasks beyond the CPUs of a node. The
    processes keep nothing between calls, so a lost one is started again and repeats its calls.

    Args:
        places: The places.
        number: Their number.
        add: A function of (total, item), which returns the new total.
        reduce: A function of (``job``, sum).
    """

    def __init__(
        self,
        places: PlacementGroup,
        number: int,
        add: Callable[[Any, Any], Any],
        reduce: Callable[[Any, Any], Any],
        job: Any,
    ) -> None:
        adder = ray.remote(num_cpus=0, max_restarts=3, max_task_retries=3)(_Adder)
        self._adders: list[Any] = [
            adder.options(**at(places, place)).remote(add, reduce, job) for place in range(number)
        ]

    def add(self, place: int, total: Ref, item: Ref) -> Ref:
        """The reference to the new total."""
        return self._adders[place].add.remote(total, item)

    def reduce(self, number: int, total: Ref) -> Ref:
        """The reference to what the reduction of a sum returns; the places take turns."""
        return self._adders[number % len(self._adders)].reduce.remote(total)


class _Adder:
    def __init__(
        self, add: Callable[[Any, Any], Any], reduce: Callable[[Any, Any], Any], job: Any
    ) -> None:
        self._add, self._reduce, self._job = add, reduce, job

    def add(self, total: Any, item: Any) -> Any:
        return self._add(total, item)

    def reduce(self, total: Any) -> Any:
        return self._reduce(self._job, total)


def reduce_sums(
    streams: Sequence[Any], num_items: int, adders: Adders, is_complete: Callable[[], bool]
) -> list[Ref]:
    """Adds the items of streams and reduces each sum, at most one at a time for each place.

    Args:
        streams: What the places yield, with the same number of items.
        num_items: The number of items of each.
        adders: The processes of the places.
        is_complete: See :class:`Chain`.

    Returns:
        The reference to what each reduction returned, in the order of the items.
    """
    found: list[Ref] = []
    running: list[Ref] = []
    for number, total in enumerate(Chain(streams, num_items, adders.add, is_complete)):
        if len(running) == len(streams):
            _, running = ray.wait(running, fetch_local=False)
        found.append(adders.reduce(number, total))
        running.append(found[-1])
    return found


def at(places: PlacementGroup, place: int) -> dict[str, Any]:
    """The options of a task that runs where a place is."""
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(places, place)}


class Chain:
    """Adds the items of streams, one after the other, without holding many of them.

    Item i of the first stream is the first total of item i. Each further stream adds its own item i
    to the total of the stream before it. A stream's next item is only taken when the total that it
    is added to is ready, and a stream makes few items ahead. So a place holds about four items,
    however many places and items there are: one that it made ahead, the one that is added, and the
    totals before and after.

    The order of additions is always the same, so the sums are the same bit for bit.

    Args:
        streams: What the places yield, with the same number of items.
        num_items: The number of items of each.
        add: A function of (number of a place, reference to a total, reference to its item), which
            starts a task there and returns the reference to the new total.
        is_complete: Whether all places exist. If one is lost, a stream may wait for the place of
            another one, which is free when its items are taken. So they are taken then.
    """

    def __init__(
        self,
        streams: Sequence[Any],
        num_items: int,
        add: Callable[[int, Ref, Ref], Ref],
        is_complete: Callable[[], bool] = lambda: True,
    ) -> None:
        self._streams, self._num_items = streams, num_items
        self._add, self._is_complete = add, is_complete
        self._num_added = [0] * len(streams)
        self._latest: list[Ref] = [None] * len(streams)
        self._held: list[deque[Ref]] = [deque() for _ in streams]
        self._totals: list[deque[Ref]] = [deque() for _ in streams]

    def __iter__(self) -> Iterator[Ref]:
        """The reference to the sum of each item, as soon as its last addition was started.

        Raises:
            Exception: What a stream raised.
        """
        last = len(self._streams) - 1
        while self._num_added[last] < self._num_items:
            for place in self._ready_places():
                self._advance(place)
            while self._totals[last]:
                yield self._totals[last].popleft()

    def _ready_places(self) -> list[int]:
        """The places whose next item can be added; waits until there is one."""
        waiting = {
            place: self._awaited(place)
            for place in range(len(self._streams))
            if self._may_add(place)
        }
        ready = [place for place, awaited in waiting.items() if awaited is None]
        if ready:
            return ready
        found, _ = ray.wait(list(waiting.values()), timeout=_LOOK_EVERY_S, fetch_local=False)
        if not found and not self._is_complete():
            self._empty_streams()
        return [
            place
            for place, awaited in waiting.items()
            if awaited in found and self._awaited(place) is None
        ]

    def _may_add(self, place: int) -> bool:
        """Whether a place has an item to add, and the next place has taken enough totals."""
        has_items = self._num_added[place] < self._num_items
        has_total = place == 0 or bool(self._totals[place - 1])
        is_last = place == len(self._streams) - 1
        return has_items and has_total and (is_last or len(self._totals[place]) < _MOST_WAITING)

    def _awaited(self, place: int) -> Any:
        """What the next addition of a place waits for; None if it can start."""
        if place > 0 and not _is_ready(self._totals[place - 1][0]):
            return self._totals[place - 1][0]
        if self._held[place] or _is_ready(self._streams[place]):
            return None
        return self._streams[place]

    def _advance(self, place: int) -> None:
        item = self._next(place)
        total = item if place == 0 else self._add(place, self._totals[place - 1].popleft(), item)
        self._num_added[place] += 1
        self._totals[place].append(total)

    def _next(self, place: int) -> Ref:
        if not self._held[place]:
            self._take(place)
        return self._held[place].popleft()

    def _take(self, place: int) -> None:
        item = next(self._streams[place], None)
        if item is None:  # a stream that fails ends with its error as the last item
            ray.get(self._latest[place])
            raise AssertionError("a stream ended before its last item and without an error")
        self._latest[place] = item
        self._held[place].append(item)

    def _empty_streams(self) -> None:
        """Takes what streams have made, so that their processes go on and end."""
        for place, stream in enumerate(self._streams):
            while self._num_added[place] + len(self._held[place]) < self._num_items:
                if not _is_ready(stream):
                    break
                self._take(place)


def _is_ready(awaited: Any) -> bool:
    ready, _ = ray.wait([awaited], timeout=0, fetch_local=False)
    return bool(ready)
