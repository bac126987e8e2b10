"""Processes wait for a place beside what else runs on the cluster, and the run says so.

Ray Train would wait too: without a word, as for workers that failed, and deaf to an interrupt. So a
place is asked for and given back first, and Train is started when there is one.
"""

from __future__ import annotations

import time

from ray.util.placement_group import placement_group, remove_placement_group

from smt_ray.cluster.resources import ProcessResources
from smt_ray.errors import UserError
from smt_ray.reporting.text.progress import say

PLACEMENT = "PACK"  # onto as few nodes as hold them
_ASK_EVERY_S = 1.0  # an interrupt is heard that late
_SAY_AFTER_S = 5.0  # what has just ended gives back what it held


def wait_for_place(kind: str, number: int, each: ProcessResources, timeout_s: float) -> None:
    """Returns once all processes can be placed; says so where that is not at once.

    Args:
        kind: What they do, as the line begins.
        number: Processes at the same time.
        each: What each of them holds.
        timeout_s: The most seconds to wait.

    Raises:
        UserError: There was no place in that time.
    """
    place = placement_group([each.bundle] * number, strategy=PLACEMENT)
    began, said = time.monotonic(), False
    try:
        while not place.wait(_ASK_EVERY_S):
            waited = time.monotonic() - began
            if waited >= timeout_s:
                raise UserError(
                    "resources.wait_timeout_s",
                    f"other work on the cluster held what {number} x {each} need for"
                    f" {kind} all that time",
                    got=timeout_s,
                    fix="start the same run again when that work has ended, or wait longer",
                )
            if not said and waited >= _SAY_AFTER_S:
                said = True
                say(
                    f"{kind}: waiting for {number} x {each}, which other work on the cluster"
                    f" holds, for {timeout_s:g} s at most (resources.wait_timeout_s)"
                )
    finally:
        remove_placement_group(place)


def found_no_place(error: BaseException) -> bool:
    """Whether a training ended because others were placed first, or a lost node is not back."""
    failure = getattr(error, "controller_failure", None)
    # By name: Ray has it in a private module.
    return type(failure).__name__ == "WorkerGroupStartupTimeoutError"
