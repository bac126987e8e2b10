"""Claims about which checkpoints are kept, by Ray Train's own ledger, and when it asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import validate_config
from smt_ray.stages.rank import TrainingRank
from smt_ray.stages.training import CHECKPOINTS, _retention
from smt_ray.training.best_checkpoint import BestCheckpoint
from smt_ray.training.loop import Callbacks
from smt_ray.training.state import load_state, save_state

CONFIG = {"name": "kept", "model": {"builtin": "tiny"}, "data": {"train": ["train.json"]}}
EXAMPLE = {20: 3.0, 40: 1.0, 60: 2.0}
BEST_FOLDER = f"{CHECKPOINTS}/best"


class CutOffError(Exception):
    """The machine is gone."""


class Attempt:
    """A training by rank 0 of one, from the latest checkpoint; Ray is its ledger alone.

    Args:
        folder: Of the stage.
        keep: ``training.keep_checkpoints``.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        config = validate_config(CONFIG | {"training": {"keep_checkpoints": keep}})
        self.storage = StorageContext(str(folder), CHECKPOINTS)
        self.ledger = CheckpointManager(_retention(config), self.storage)
        self.rank = TrainingRank.__new__(TrainingRank)
        self.rank.rank, self.rank.log = 0, SimpleNamespace(flush=list)
        self.rank.job = {"loop": {"num_steps": 60}}
        self.rank.best = BestCheckpoint(Storage(str(folder)), BEST_FOLDER)

    def report(
        self, metrics: Mapping[str, Any], checkpoint: Any = None, checkpoint_dir_name: str = ""
    ) -> None:
        """What ray.train.report does on rank 0 and in the controller."""
        kept = self.storage.persist_current_checkpoint(checkpoint, checkpoint_dir_name)
        report = _TrainingReport(checkpoint=kept, metrics=dict(metrics), validation=False)
        self.ledger.after_report(report, [dict(metrics)])

    async def run(self, make_loop: Callable[..., Any], **settings: Any) -> None:
        callbacks = Callbacks(lambda *_: None, self.rank._checkpoint)
        self.rank.engine, loop = make_loop(callbacks, **settings)
        latest, done = self.ledger.latest_checkpoint_result, 0
        if latest is not None:
            state, done = load_state(Path(latest.checkpoint.path))
            self.rank.engine.import_state(state, done)
        loop.run(done)


@pytest.fixture
def train(
    tmp_path: Path, make_loop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Trains in a folder, as one attempt; the machine may go before a step's report."""

    def go(keep: int = 2, cut_at: int | None = None, **settings: Any) -> None:
        async def attempt() -> None:  # the ledger wants a running event loop
            this = Attempt(tmp_path, keep)

            def report(metrics: Mapping[str, Any], *rest: Any, **more: Any) -> None:
                if metrics["step"] == cut_at:
                    raise CutOffError
                this.report(metrics, *rest, **more)

            monkeypatch.setattr(ray.train, "report", report)
            await this.run(make_loop, **settings)

        asyncio.run(attempt())

    return go


def steps_of(folder: Path) -> list[int]:
    """Steps of the latest checkpoints, each of which holds that step's state."""
    found = []
    for place in sorted((folder / CHECKPOINTS).glob("step-*")):
        state, num_steps = load_state(place)
        assert int(place.name.removeprefix("step-")) == num_steps
        assert state["w/param"].tolist() == [num_steps]
        found.append(num_steps)
    return found


def best_of(folder: Path) -> int | None:
    """The step of the best one, where there is one."""
    if not (folder / BEST_FOLDER).exists():
        return None
    state, num_steps = load_state(folder / BEST_FOLDER)
    assert state["w/param"].tolist() == [num_steps]
    return num_steps


@pytest.mark.parametrize(
    ("keep", "validate_every", "losses", "best"),
    [
        (2, 20, EXAMPLE, 40),
        (1, 20, EXAMPLE, 40),
        (3, 20, {20: 1.0, 40: 2.0, 60: 3.0}, 20),
        (2, 20, {20: 3.0, 40: 2.0, 60: 1.0}, 60),  # the best is among the last
        (2, 20, {20: 1.0, 40: 1.0, 60: 1.0}, 20),  # the first of equals
        (2, 20, {20: float("nan"), 40: 2.0, 60: float("inf")}, 40),
        # 14 and 49 have no checkpoint of their own
        (2, 7, dict.fromkeys(range(7, 60, 7), 3.0) | {14: 0.1, 35: 2.0, 49: 0.1, 60: 2.5}, 35),
    ],
)
def test_the_last_ones_and_the_best_that_was_validated_at_its_own_step_are_kept(
    train: Callable[..., None], tmp_path: Path, keep: int, validate_every: int,
    losses: dict[int, float], best: int,
) -> None:  # fmt: skip
    train(
        keep, checkpoint_every_steps=5, validate_every_steps=validate_every,
        validation_losses=losses,
    )  # fmt: skip
    assert steps_of(tmp_path) == list(range(5, 61, 5))[-keep:]
    assert best_of(tmp_path) == best


def test_without_validation_the_last_ones_alone_are_kept(
    train: Callable[..., None], tmp_path: Path
) -> None:
    train(checkpoint_every_steps=5)
    assert steps_of(tmp_path) == [55, 60]
    assert best_of(tmp_path) is None


@pytest.mark.parametrize("cut_at", [5, 20, 25, 40, 45, 60])
def test_a_run_that_is_cut_off_and_goes_on_keeps_what_an_undisturbed_one_does(
    train: Callable[..., None], tmp_path: Path, cut_at: int
) -> None:
    settings = {
        "checkpoint_every_steps": 5, "validate_every_steps": 20, "validation_losses": EXAMPLE
    }  # fmt: skip
    with pytest.raises(CutOffError):
        train(cut_at=cut_at, **settings)
    train(**settings)
    assert steps_of(tmp_path) == [55, 60]
    assert best_of(tmp_path) == 40


def test_a_best_one_whose_copy_is_cut_off_stays_the_former_until_it_is_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path))
    put = storage.put_file

    def offer(step: int, loss: float) -> None:
        local = tmp_path / f"local-{step}"
        local.mkdir(exist_ok=True)
        save_state(local, {"w/param": torch.tensor([float(step)])}, step)
        BestCheckpoint(storage, BEST_FOLDER).offer(local, step, loss)

    def cut(*_: Any) -> None:
        raise CutOffError

    offer(20, 2.0)
    monkeypatch.setattr(storage, "put_file", cut)
    with pytest.raises(CutOffError):
        offer(40, 1.0)
    assert best_of(tmp_path) == 20
    monkeypatch.setattr(storage, "put_file", put)
    offer(40, 1.0)
    assert best_of(tmp_path) == 40
    offer(60, 1.5)
    assert best_of(tmp_path) == 40


def test_the_worker_takes_any_preemption_that_ray_knows_of_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank, found = TrainingRank.__new__(TrainingRank), []
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: found[-1] if found else None)
    assert not rank._preempted()
    found.append(ray.train.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [1]}))
    assert rank._preempted()
