"""A training loop whose engine only counts steps, to test without a model when things are due."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smt_ray.data.batches import MicroBatch, StepPlan
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.training.loop import Callbacks, LoopSettings, TrainingLoop


class CountingEngine:
    """An engine whose state is its number of steps.

    Args:
        validation_losses: Number of finished steps -> the loss of the held-out rows. Before the
            first step, it is 2.
    """

    device = torch.device("cpu")
    shares = (["w"],)

    def __init__(self, validation_losses: Mapping[int, float]) -> None:
        self.num_steps, self.training = 0, True
        self.validation_losses = {0: 2.0, **validation_losses}

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def loss(self, _batch: MicroBatch) -> torch.Tensor:
        return torch.tensor(1.0 if self.training else self.validation_losses[self.num_steps])

    def backward(self, _loss: torch.Tensor) -> None:
        pass

    def step(self, _learning_rate: float) -> float:
        self.num_steps += 1
        return 1.0

    def own_share(self) -> list[str]:
        return ["w"]

    def export_state(self, keep: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        return {"w/param": torch.tensor([float(self.num_steps)])}

    def import_state(self, state: dict[str, torch.Tensor], num_steps: int) -> None:
        self.num_steps = num_steps
        assert state["w/param"].tolist() == [num_steps]


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def make_loop(alone: None, make_encoded: Callable[..., EncodedRows]) -> Callable[..., Any]:
    """Makes a counting engine and its loop, of 60 steps by default."""

    def make(
        callbacks: Callbacks,
        *,
        validation_losses: Mapping[int, float] | None = None,
        **changes: Any,
    ) -> tuple[CountingEngine, TrainingLoop]:
        rows, engine = make_encoded(4), CountingEngine(validation_losses or {})
        values: dict[str, Any] = {
            "num_steps": 60,
            "seed": 3,
            "learning_rate": 1e-3,
            "lr_schedule": "linear",
            "lr_warmup_steps": 0,
            "batching": "prefix_packed",
            "max_tokens": 1000,
            "train_on_inputs": False,
            "log_every_steps": 1,
            "validate_every_steps": None,
            "checkpoint_every_steps": None,
        }
        settings = LoopSettings(**{**values, **changes})
        held_out = rows if validation_losses else None
        plan = StepPlan(len(rows), 2, 3)
        return engine, TrainingLoop(engine, rows, held_out, plan, settings, callbacks)

    return make
