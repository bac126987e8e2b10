"""Waiting for resources that other work on the cluster holds, with a message to the user.

Ray Train also waits, but it prints nothing, treats the wait as a failure, and ignores interrupts.
So the resources are first reserved and released here, and Ray Train is started when they are free.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from smt_ray.cluster.resources import ProcessResources
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say

PLACEMENT = "PACK"
"""The placement strategy of processes: onto as few nodes as possible."""

_ASK_EVERY_S = 1.0  # also the time until an interrupt is noticed
_SAY_AFTER_S = 5.0  # work that has just ended releases its resources within this time


def wait_for_place(kind: str, number: int, each: ProcessResources, timeout_s: float) -> None:
    """Waits until all processes can be placed; see :func:`reserved`."""
    with reserved(kind, number, each, timeout_s):
        pass


@contextmanager
def reserved(
    kind: str, number: int, each: ProcessResources, timeout_s: float
) -> Iterator[PlacementGroup]:
    """Places for processes, which are kept while the context is open.

    It waits until all of them can be placed, and tells the user if that takes a while.

    Args:
        kind: The work of the processes, such as ``training``; the message begins with it.

    Raises:
        UserError: The resources were not free within that time.
    """
    place = placement_group([each.bundle] * number, strategy=PLACEMENT)
    began, said = time.monotonic(), False
    try:
        while not place.wait(_ASK_EVERY_S):
            waited = time.monotonic() - began
            if waited >= timeout_s:
                raise UserError(
                    "resources.wait_timeout_s",
                    f"{kind} needs {number} x {each}, which other work on the cluster held all"
                    " that time",
                    got=timeout_s,
                    fix="start the same run again when that work has ended, or wait longer",
                )
            if not said and waited >= _SAY_AFTER_S:
                said = True
                say(
                    f"{kind}: waiting for {number} x {each}, which other work on the cluster"
                    f" holds, for {timeout_s:g} s at most (resources.wait_timeout_s)"
                )
        yield place
    finally:
        remove_placement_group(place)


def is_whole(place: PlacementGroup) -> bool:
    """Whether all places exist at present: those of a lost node are searched for on others."""
    return bool(placement_group_table(place)["state"] == "CREATED")


def found_no_place(error: BaseException) -> bool:
    """Whether Ray Train ended because it could not place its workers.

    Other work was placed first, or a lost node has not come back.
    """
    failure = getattr(error, "controller_failure", None)
    # The class is compared by name, since it is in a private module of Ray.
    return type(failure).__name__ == "WorkerGroupStartupTimeoutError"
