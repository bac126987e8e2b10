"""Values that a thread makes while the one before is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def made_ahead(make: Callable[[S], T], inputs: Iterable[S]) -> Iterator[T]:
    """The results of a function in order, each made while the caller uses the one before.

    An exception of the function is raised where its result would be.

    Args:
        make: The function, which is called in one other thread.
        inputs: The arguments, one for each result.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        following: Future[T] | None = None
        for value in inputs:
            current, following = following, pool.submit(make, value)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()
