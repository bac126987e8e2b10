"""Runs side by side: the same results as one after the other, and shared stages are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.grid.runs import Outcome, run_grid
from tests.runs import quick_config

pytestmark = pytest.mark.slow

RATES = ("1e-3", "2e-3", "1e30")


def make_runs(folder: Path) -> list[RunConfig]:
    return [
        quick_config(
            folder, f"name=rate{rate}", f"training.learning_rate={rate}",
            "resources.num_workers=1", "training.max_steps=4", "warmup.num_steps=4",
            "warmup.num_shards=1", "training.validate_every_steps=null", "tracking.enabled=false",
        )
        for rate in RATES
    ]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[int | None, dict[str, Outcome]]:
    """By the number of runs at once; None is as many as the cluster holds, which is two."""
    return {
        at_once: run_grid(
            make_runs(tmp_path_factory.mktemp("runs")), until="training", at_once=at_once
        )
        for at_once in (1, None)
    }


def adapter(outcome: Outcome) -> dict[str, bytes]:
    training = outcome.folder.manifest().stages["training"].stage
    folder = Path(outcome.folder.storage.root) / "stages" / training / "adapter"
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_they_train_the_same_adapters(outcomes: dict[Any, dict[str, Outcome]]) -> None:
    alone, together = outcomes[1], outcomes[None]
    assert list(alone) == list(together)
    for name in ("rate1e-3", "rate2e-3"):
        assert alone[name].error == together[name].error == ""
        assert adapter(alone[name]) == adapter(together[name])


def test_a_stage_that_they_share_is_made_once(outcomes: dict[Any, dict[str, Outcome]]) -> None:
    for found in outcomes.values():
        stages = [found[f"rate{rate}"].folder.manifest().stages for rate in RATES]
        for kind in ("tokens", "warmup", "selection"):
            assert sorted(stage[kind].reused for stage in stages) == [False, True, True]
        assert len({stage["warmup"].stage for stage in stages}) == 1


def test_a_run_that_fails_says_why_and_the_others_go_on(
    outcomes: dict[Any, dict[str, Outcome]],
) -> None:
    alone, together = (found["rate1e30"] for found in outcomes.values())
    assert together.error == alone.error
    assert "must be finite" in alone.error


def test_finished_runs_are_not_started_again(
    outcomes: dict[Any, dict[str, Outcome]],
) -> None:
    folder = Path(outcomes[None]["rate1e-3"].folder.storage.root)
    again = run_grid(make_runs(folder)[:2], until="training", at_once=None)
    assert all(outcome.reused for outcome in again.values())
