"""Turns at making a stage: of a search's trials, one at a time makes it, and the others find it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

_ASK_EVERY_S = 1.0


class _Turn:
    """Holds a name, and nothing else."""


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Waits until no other process of this driver's has the turn of a name, and has it for a block.

    The turn is an actor of that name, of which Ray allows one. It ends with the process that made
    it, so that a trial that is killed keeps no other waiting.

    Args:
        name: Such as a stage's.
    """
    holder = _take(name)
    try:
        yield
    finally:
        ray.kill(holder)


def _take(name: str) -> Any:
    actor = ray.remote(num_cpus=0)(_Turn)
    while True:
        try:
            return actor.options(name=name).remote()
        except ray.exceptions.ActorAlreadyExistsError:
            time.sleep(_ASK_EVERY_S)
