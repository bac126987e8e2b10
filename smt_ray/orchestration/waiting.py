"""Ranks that wait for others on a cluster to end: said while they do, told from ranks that failed.

Ray Train says nothing of it to whoever started the training.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ray.util.placement_group import placement_group_table

from smt_ray.orchestration.progress import say
from smt_ray.orchestration.resources import ProcessResources
from smt_ray.orchestration.session import START_TIMEOUT

_ASK_EVERY_S = 10.0  # also how long a place may take without a word
_TRAINS_OWN_S = 60.0
_TIMED_OUT = "WorkerGroupStartupTimeoutError"  # by name: Ray has it in a private module


@contextmanager
def waits_said(kind: str, num_ranks: int, each: ProcessResources) -> Iterator[None]:
    """Says once for each place asked for that it is waited for, while the block trains.

    Args:
        kind: What the line begins with.
        num_ranks: Ranks, all placed at once.
        each: What each of them holds.
    """
    before, done = set(placement_group_table()), threading.Event()

    def watch() -> None:
        said: set[str] = set()
        while not done.wait(_ASK_EVERY_S):
            with suppress(Exception):  # a line that is not said must not end a training
                if waiting := _waiting(before, num_ranks) - said:
                    said |= waiting
                    say(
                        f"{kind}: waits for a place: other work on the cluster holds what"
                        f" {num_ranks} x {each} need; {start_timeout():g} s at most"
                        f" ({START_TIMEOUT})"
                    )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _waiting(before: set[str], num_ranks: int) -> set[str]:
    """Groups of our size that were asked for since and have no place, where none of them has.

    A group does not say whose it is: one of another training, as large and begun later, might be
    among them; ours has its place then, or waits as well.
    """
    ours = {
        name: group["state"]
        for name, group in placement_group_table().items()
        if name not in before and len(group["bundles"]) == num_ranks
    }
    if "CREATED" in ours.values():
        return set()
    return {name for name, state in ours.items() if state == "PENDING"}


def start_timeout() -> float:
    """Seconds that Ray Train waits for a place of all ranks, each time it asks for one."""
    return float(os.environ.get(START_TIMEOUT, _TRAINS_OWN_S))


def waited_for(error: BaseException) -> float | None:
    """The seconds that a training waited for a place, if that is what ended it."""
    failure = getattr(error, "controller_failure", None)
    return start_timeout() if type(failure).__name__ == _TIMED_OUT else None
