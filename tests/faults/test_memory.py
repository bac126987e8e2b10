"""Faults of memory: Ray ends processes because their node has none left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.scene import Scene

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("during", "fix"),
    [("warmup", "warmup.accumulate_on"), ("training", "batching.max_tokens")],
)
def test_the_second_death_by_memory_ends_the_run_with_one_line(
    scene: Callable[..., Scene], during: str, fix: str
) -> None:
    # Less than is used at any time, so that whatever Ray starts is ended.
    scarce = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    run = scene(during, environment=scarce)
    run.start()
    assert run.ends() == 2, run.said()
    line = run.last_line()
    assert line.startswith(f"error: {during}: ran out of memory: ")
    for part in ("GB of the node were used", "process", fix, "resources.num_workers"):
        assert part in line
