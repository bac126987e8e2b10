"""Turns at making a stage: one trial of a search makes it while the others wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

_ASK_EVERY_S = 1.0


class _Turn:
    """An actor that does nothing but hold a name."""


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Waits for the turn of a name, such as a stage's, and has it while the context is open.

    The turn is an actor of that name, and Ray allows only one in a job. The actor ends with the
    process that started it, so a trial that is killed does not keep the others waiting.
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
