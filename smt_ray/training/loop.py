"""One rank's training loop: steps, validation, records, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from smt_ray.data.batches import MicroBatch, StepPlan, step_micro_batches
from smt_ray.data.encoding import EncodedRows
from smt_ray.errors import UserError
from smt_ray.training.engine import Engine
from smt_ray.training.schedule import learning_rate

VALIDATION_LOSS = "validation/loss"

_PREEMPTION_CHECK_S = 5.0  # asking is a barrier over all workers: not at every step


@dataclass(frozen=True)
class LoopSettings:
    """Flat settings of the loop; names and meanings are the config's.

    Attributes:
        num_steps: Optimizer steps of the whole training.
        batching: How rows become micro-batches: ``padded``, ``packed`` or ``prefix_packed``.
        max_tokens: Tokens of a micro-batch.
        section: The config section whose learning rate it is, for errors.
    """

    num_steps: int
    seed: int
    learning_rate: float
    lr_schedule: str
    lr_warmup_steps: int
    batching: str
    max_tokens: int
    train_on_inputs: bool
    log_every_steps: int
    validate_every_steps: int | None
    checkpoint_every_steps: int | None
    section: str = "training"


@dataclass(frozen=True)
class Callbacks:
    """What the loop asks of its surroundings.

    Attributes:
        record: Takes (step, metrics); rank 0 alone calls it.
        checkpoint: Takes (steps done, metrics of the last of them); every rank calls it at the
            same steps.
        preempted: Whether a node of this training is about to go; every rank calls it at the same
            steps and gets the same answer.
    """

    record: Callable[[int, Mapping[str, float]], None]
    checkpoint: Callable[[int, Mapping[str, float]], None]
    preempted: Callable[[], bool] = lambda: False


class TrainingLoop:
    """Runs an engine over a plan of steps.

    Args:
        engine: This rank's engine.
        training: The tokenised rows.
        validation: Held-out rows, or None.
        plan: Which rows make a step.
        settings: See :class:`LoopSettings`.
        callbacks: See :class:`Callbacks`.
    """

    def __init__(
        self,
        engine: Engine,
        training: EncodedRows,
        validation: EncodedRows | None,
        plan: StepPlan,
        settings: LoopSettings,
        callbacks: Callbacks,
    ) -> None:
        self._engine, self._training, self._validation = engine, training, validation
        self._plan, self._settings, self._callbacks = plan, settings, callbacks
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self._asked_at = time.monotonic()
        self._saved_for_preemption = False

    def run(self, start: int = 0) -> dict[str, float]:
        """Trains from step ``start`` to the end; returns the last step's metrics.

        Raises:
            UserError: A loss or gradient is not finite, on every rank alike; the step and its rows
                are named, and the last checkpoint stands.
        """
        metrics: dict[str, float] = {}
        for step in range(start, self._settings.num_steps):
            done = step + 1
            # Of this step alone: a validation loss of before is no word on this step's checkpoint.
            metrics, ask = self._step(step)
            validated = self._validation and self._due(done, self._settings.validate_every_steps)
            if validated:
                metrics |= self.validate()
            if self._rank == 0 and (validated or self._due(done, self._settings.log_every_steps)):
                self._callbacks.record(done, metrics)
            if self._due(done, self._settings.checkpoint_every_steps) or (
                ask and self._about_to_go()
            ):
                self._callbacks.checkpoint(done, metrics)
        return metrics

    def validate(self) -> dict[str, float]:
        """The mean loss per target token over the held-out rows."""
        assert self._validation is not None
        self._engine.train(False)
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            for batch in self._micro_batches(self._validation, list(range(len(self._validation)))):
                total += self._engine.loss(batch).double().cpu()
        self._engine.train(True)
        return {VALIDATION_LOSS: self._mean_over_ranks(total)}

    def _step(self, step: int) -> tuple[dict[str, float], bool]:
        """One optimizer step: its metrics, and whether it is time to ask about preemption."""
        began = time.monotonic()
        rows = self._plan.rows(step)
        # Ranks and steps differ in their dropout, resumed runs and uninterrupted ones do not.
        torch.manual_seed((self._settings.seed << 44) + (step << 14) + self._rank)
        total = torch.zeros((), dtype=torch.float64)
        for batch in self._micro_batches(self._training, rows):
            loss = self._engine.loss(batch)
            self._engine.backward(loss)
            total += loss.detach().double().cpu()
        rate = learning_rate(
            step,
            peak=self._settings.learning_rate,
            num_steps=self._settings.num_steps,
            num_warmup_steps=self._settings.lr_warmup_steps,
            schedule=self._settings.lr_schedule,
        )
        mean, ask = self._agree(total, began)
        self._check_finite("loss", mean, step + 1, rows)
        norm = self._engine.step(rate)
        self._check_finite("gradient norm", norm, step + 1, rows)
        seconds = time.monotonic() - began
        num_tokens = int(self._training.lengths[rows].sum())
        return {
            "train/loss": mean,
            "train/grad_norm": norm,
            "train/learning_rate": rate,
            "train/epoch": (step + 1) / self._plan.steps_per_epoch,
            "train/tokens_per_second": num_tokens / seconds,
            "train/step_seconds": seconds,
        }, ask

    def _micro_batches(self, encoded: EncodedRows, rows: list[int]) -> list[MicroBatch]:
        return step_micro_batches(
            encoded,
            rows,
            mode=self._settings.batching,
            max_tokens=self._settings.max_tokens,
            train_on_inputs=self._settings.train_on_inputs,
            rank=self._rank,
            num_ranks=self._num_ranks,
        )

    def _agree(self, total: torch.Tensor, now: float) -> tuple[float, bool]:
        """The step's loss over all ranks, and rank 0's word on whether to ask about preemption."""
        due = self._rank == 0 and now - self._asked_at > _PREEMPTION_CHECK_S
        shared = torch.stack([total / self._num_ranks, total.new_tensor(float(due))])
        shared = shared.to(self._engine.device)
        dist.all_reduce(shared)
        if due:
            self._asked_at = now
        return float(shared[0]), bool(shared[1] > 0)

    def _mean_over_ranks(self, total: torch.Tensor) -> float:
        shared = (total / self._num_ranks).to(self._engine.device)
        dist.all_reduce(shared)
        return float(shared)

    def _about_to_go(self) -> bool:
        """Once before a preemption: time for a checkpoint out of turn."""
        if self._saved_for_preemption or not self._callbacks.preempted():
            return False
        self._saved_for_preemption = True
        return True

    def _due(self, done: int, every: int | None) -> bool:
        return done == self._settings.num_steps or (every is not None and done % every == 0)

    def _check_finite(self, what: str, value: float, step: int, rows: list[int]) -> None:
        if not math.isfinite(value):
            raise UserError(
                self._settings.section,
                f"the {what} of step {step} must be finite"
                f" (rows {self._training.positions[rows].tolist()} of data.train)",
                got=value,
                fix=f"lower {self._settings.section}.learning_rate or look at the rows; the last"
                " checkpoint stands",
            )
