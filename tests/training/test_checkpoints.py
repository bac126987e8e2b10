"""Claims about the checkpoints that are kept, by Ray Train's own checkpoint manager."""

from __future__ import annotations

import asyncio
import os
import shutil
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

from smt_ray.artifacts.layout import BEST_ADAPTER, BEST_STEP, CHECKPOINTS
from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError
from smt_ray.stages.checkpoints import check_checkpoints, kept_checkpoints
from smt_ray.stages.rank import TrainingRank
from smt_ray.training.best_step import BestSteps
from smt_ray.training.loop import Callbacks
from smt_ray.training.state import load_state

LOSSES = {20: 3.0, 40: 1.0, 60: 2.0}
BEST = f"{CHECKPOINTS}/{BEST_STEP}"


class MachineLostError(Exception):
    """The machine of the rank is gone."""


class Attempt:
    """A training by one rank, from the latest checkpoint; of Ray there is only the manager.

    Args:
        folder: The folder of the stage.
        keep: The number of checkpoints that are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.storage = StorageContext(str(folder), CHECKPOINTS)
        self.manager = CheckpointManager(kept_checkpoints(keep), self.storage)
        self.rank: Any = TrainingRank.__new__(TrainingRank)
        self.rank.rank, self.rank.log = 0, SimpleNamespace(flush=list)
        self.rank.job = SimpleNamespace(num_steps=60)
        self.rank.best = BestSteps(Storage(str(folder)), BEST)

    def report(
        self, metrics: Mapping[str, Any], checkpoint: Any = None, checkpoint_dir_name: str = ""
    ) -> None:
        """Does the same as ray.train.report on rank 0 and in the controller."""
        kept = self.storage.persist_current_checkpoint(checkpoint, checkpoint_dir_name)
        report = _TrainingReport(checkpoint=kept, metrics=dict(metrics), validation=False)
        self.manager.after_report(report, [dict(metrics)])

    async def run(self, make_loop: Callable[..., Any], **settings: Any) -> None:
        callbacks = Callbacks(lambda *_: None, self.rank._save_checkpoint)
        engine, loop = make_loop(callbacks, **settings)
        self.rank.training = SimpleNamespace(engine=engine)
        latest, done = self.manager.latest_checkpoint_result, 0
        if latest is not None:
            state, done = load_state(Path(latest.checkpoint.path))
            engine.import_state(state, done)
        loop.run(done)


@pytest.fixture
def train(
    tmp_path: Path, make_loop: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Trains in a folder, as one attempt; the machine may be lost before a step's report."""

    def go(keep: int = 2, lost_at: int | None = None, **settings: Any) -> None:
        async def attempt() -> None:  # the manager needs a running event loop
            this = Attempt(tmp_path, keep)

            def report(metrics: Mapping[str, Any], *rest: Any, **more: Any) -> None:
                if metrics["step"] == lost_at:
                    raise MachineLostError
                this.report(metrics, *rest, **more)

            monkeypatch.setattr(ray.train, "report", report)
            await this.run(make_loop, **settings)

        asyncio.run(attempt())

    return go


def steps_of(folder: Path) -> list[int]:
    """The steps of the latest checkpoints, each of which holds the state of its step."""
    found = []
    for place in sorted((folder / CHECKPOINTS).glob("step-*")):
        state, num_steps = load_state(place)
        assert int(place.name.removeprefix("step-")) == num_steps
        assert state["w/param"].tolist() == [num_steps]
        found.append(num_steps)
    return found


def best_of(folder: Path) -> int | None:
    """The step of the best checkpoint, which is there, if there is one."""
    best = BestSteps(Storage(str(folder)), BEST).best
    if best is None:
        return None
    assert best.num_steps in steps_of(folder)
    return best.num_steps


@pytest.mark.parametrize(
    ("keep", "validate_every", "losses", "best", "kept"),
    [
        (2, 20, LOSSES, 40, [40, 60]),
        (1, 20, LOSSES, 40, [40, 60]),
        (3, 20, {20: 1.0, 40: 2.0, 60: 3.0}, 20, [20, 40, 60]),
        (1, 20, {20: 1.0, 40: 2.0, 60: 3.0}, 20, [20, 60]),
        (2, 20, {20: 3.0, 40: 2.0, 60: 1.0}, 60, [40, 60]),
        (1, 20, {20: 1.0, 40: 1.0, 60: 1.0}, 60, [60]),  # the last of equals
        # 14 and 49 have no checkpoint of their own
        (2, 7, dict.fromkeys(range(7, 60, 7), 3.0) | {14: 0.1, 35: 2.0, 49: 0.1, 60: 2.5}, 35,
         [35, 60]),
        (1, 20, {20: float("nan"), 40: 2.0, 60: float("inf")}, 40, [40, 60]),
        (3, 60, {60: 1.0}, 60, [50, 55, 60]),  # those that were not validated: the latest
    ],
)  # fmt: skip
def test_the_latest_checkpoint_and_the_best_validated_ones_are_kept(
    train: Callable[..., None], tmp_path: Path, keep: int, validate_every: int,
    losses: dict[int, float], best: int, kept: list[int],
) -> None:  # fmt: skip
    train(
        keep, checkpoint_every_steps=5, validate_every_steps=validate_every,
        validation_losses=losses,
    )  # fmt: skip
    assert steps_of(tmp_path) == kept
    assert best_of(tmp_path) == best


def test_without_validation_the_latest_checkpoints_are_kept(
    train: Callable[..., None], tmp_path: Path
) -> None:
    train(checkpoint_every_steps=5)
    assert steps_of(tmp_path) == [55, 60]
    assert best_of(tmp_path) is None


@pytest.mark.parametrize("lost_at", [5, 20, 25, 40, 45, 60])
def test_a_resumed_run_keeps_the_same_checkpoints_as_an_uninterrupted_one(
    train: Callable[..., None], tmp_path: Path, lost_at: int
) -> None:
    settings = {
        "checkpoint_every_steps": 5, "validate_every_steps": 20, "validation_losses": LOSSES
    }  # fmt: skip
    with pytest.raises(MachineLostError):
        train(lost_at=lost_at, **settings)
    train(**settings)
    assert steps_of(tmp_path) == [40, 60]
    assert best_of(tmp_path) == 40


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def cut_list_and_remove_folders(folder: Path) -> None:
    os.truncate(folder / LIST, 30)
    for checkpoint in folder.glob("step-*"):
        shutil.rmtree(checkpoint)


LIST = "checkpoint_manager_snapshot.json"
STATE = "step-0000040/state.safetensors"
DAMAGES: dict[str, tuple[Callable[[Path], None], int, int]] = {
    # the damage, the step to resume from, and the best step among the checkpoints
    "none": (lambda folder: None, 40, 40),
    "folder gone": (lambda folder: shutil.rmtree(folder / "step-0000040"), 20, 0),
    "earlier folder gone": (lambda folder: shutil.rmtree(folder / "step-0000020"), 40, 40),
    "all folders gone": (
        lambda folder: [shutil.rmtree(each) for each in folder.glob("step-*")] and None, 0, 0,
    ),
    "state gone": (lambda folder: (folder / STATE).unlink(), 20, 0),
    "state cut": (lambda folder: os.truncate(folder / STATE, 100), 20, 0),
    "state empty": (lambda folder: os.truncate(folder / STATE, 0), 20, 0),
    "a bit flipped": (lambda folder: flip(folder / STATE), 20, 0),
    "checksum gone": (lambda folder: (folder / f"{STATE}.json").unlink(), 20, 0),
    "position cut": (lambda folder: os.truncate(folder / "step-0000040/position.json", 5), 20, 0),
    "list gone": (lambda folder: (folder / LIST).unlink(), 40, 40),
    "list cut": (lambda folder: os.truncate(folder / LIST, 30), 40, 40),
    "list of another form": (lambda folder: (folder / LIST).write_text("[1]") and None, 40, 40),
    "list cut and all folders gone": (cut_list_and_remove_folders, 0, 0),
    "list without a key": (
        lambda folder: (folder / LIST).write_text('{"checkpoint_results": []}') and None, 40, 40,
    ),
    "best step cut": (lambda folder: os.truncate(folder / BEST_STEP, 3), 40, 0),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_resumes_from_the_latest_checkpoint_that_can_be_used(
    train: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    settings = {
        "checkpoint_every_steps": 20, "validate_every_steps": 20, "validation_losses": LOSSES
    }  # fmt: skip
    with pytest.raises(MachineLostError):
        train(keep=3, lost_at=60, **settings)
    harm, step, best = DAMAGES[damage]
    harm(tmp_path / CHECKPOINTS)
    stage: Any = SimpleNamespace(
        storage=Storage(str(tmp_path)),
        path=lambda file: file,
        kind=SimpleNamespace(name="training"),
    )
    check_checkpoints(stage)
    said = capsys.readouterr().err
    assert bool(said) == (damage not in ("none", "list gone"))

    async def latest() -> int:
        result = Attempt(tmp_path, 3).manager.latest_checkpoint_result
        return load_state(Path(result.checkpoint.path))[1] if result else 0

    assert asyncio.run(latest()) == step
    assert (best_of(tmp_path) or 0) == best
    check_checkpoints(stage)
    assert capsys.readouterr().err == "", "what was said is mended"
    train(keep=3, **settings)
    assert steps_of(tmp_path)[-1] == 60


@pytest.mark.parametrize(("losses", "saved"), [(LOSSES, 40), ({60: 1.0}, None)])
def test_the_adapter_of_the_best_step_is_saved_unless_it_is_the_last(
    train: Callable[..., None], tmp_path: Path, losses: dict[int, float], saved: int | None
) -> None:
    every = min(losses)
    train(checkpoint_every_steps=20, validate_every_steps=every, validation_losses=losses)
    rank: Any = TrainingRank.__new__(TrainingRank)
    rank.storage, rank.job = Storage(str(tmp_path)), SimpleNamespace(num_steps=60, folder="")
    rank._place = lambda file: file
    rank.best = BestSteps(rank.storage, BEST)
    rank.training = SimpleNamespace(
        model=None, method=SimpleNamespace(save=lambda _, values, at: torch.save(values, at / "x"))
    )
    rank._save_best()
    file = tmp_path / BEST_ADAPTER / "x"
    assert file.exists() == (saved is not None)
    if saved is not None:
        assert torch.load(file) == {"w": torch.tensor([float(saved)])}


def test_a_preemption_of_any_rank_counts_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank, found = TrainingRank.__new__(TrainingRank), []
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: found[-1] if found else None)
    assert not rank._preempted()
    found.append(ray.train.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [1]}))
    assert rank._preempted()


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"num_steps": 7}', b'{"loss": '])
def test_the_error_about_a_damaged_record_of_the_best_step_names_it(
    tmp_path: Path, damage: bytes
) -> None:
    record = tmp_path / BEST
    record.parent.mkdir(parents=True)
    record.write_bytes(damage)
    with pytest.raises(UserError, match=r"cannot be read .* Fix: delete the file") as raised:
        BestSteps(Storage(str(tmp_path)), BEST)
    assert raised.value.field.endswith("best.json")
