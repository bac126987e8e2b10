"""Claims about failed trainings, on Ray Train's own exceptions; Ray is not started."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from smt_ray.stages.training import _raised_by_our_code

DIED = [
    ActorDiedError(),
    OutOfMemoryError("a worker was killed for its memory"),
    WorkerHealthCheckFailedError("no answer", RuntimeError("timed out")),
]


@pytest.mark.parametrize("failure", DIED, ids=lambda failure: type(failure).__name__)
def test_a_dead_rank_is_distinguished_from_a_raised_error(failure: Exception) -> None:
    assert not _raised_by_our_code(WorkerGroupError("failed", {0: failure}))
    assert _raised_by_our_code(WorkerGroupError("failed", {0: failure, 1: ValueError("a defect")}))
