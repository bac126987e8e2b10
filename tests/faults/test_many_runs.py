"""Searches and comparisons whose driver ends: the same command ends with single runs' adapters."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scene import Scene, files

pytestmark = pytest.mark.slow
RATE = "training.learning_rate"
SEARCH = {
    "space": {RATE: {"grid_search": [2e-3, 1e-3]}},
    "scheduler": "none",
    "max_concurrent_trials": 1,
}
COMPARISON = {
    "seeds": [0],
    "tables": {"rates": {"title": "Rates", "rows": {"as it is": {}, "low": {RATE: 1e-3}}}},
}


@pytest.mark.parametrize(
    ("command", "around", "fault"),
    [("tune", SEARCH, signal.SIGKILL), ("compare", COMPARISON, signal.SIGTERM)],
    ids=["search", "comparison"],
)
def test_the_driver_of_many_runs_is_ended(
    scene: Callable[..., Scene],
    undisturbed: Scene,
    command: str,
    around: dict[str, Any],
    fault: signal.Signals,
) -> None:
    run = scene("training", "evaluation.base=false", "evaluation.base_likelihood=false")
    run.until, run.command, run.around = None, command, around
    run.start()
    run.trains()
    assert run.driver is not None
    run.driver.send_signal(fault)
    assert run.ends() == (130 if fault is signal.SIGTERM else -fault)
    run.start()
    assert run.ends() == 0, run.said()
    stage = Path(run.config.storage) / "stages" / undisturbed.stage("training").name
    assert files(stage / "adapter") == undisturbed.adapter()
