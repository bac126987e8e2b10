"""One rank's training loop: steps, validation, records, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from smt_ray.data.batches import MicroBatch, StepPlan, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.run import VALIDATION_LOSS
from smt_ray.errors import UserError
from smt_ray.training.ahead import made_ahead
from smt_ray.training.engine import Engine
from smt_ray.training.schedule import learning_rate

_PREEMPTION_CHECK_S = 5.0  # every check is a barrier over all workers


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop; names and meanings are those of the run's configuration.

    Attributes:
        num_steps: The number of optimizer steps of the whole training.
        batching: The batching mode: ``padded``, ``packed`` or ``prefix_packed``.
        max_tokens: The largest number of tokens of a micro-batch.
        section: The section of the configuration that has the learning rate, for errors.
        first_step: The number of steps that were done before this training.
        num_scheduled_steps: The step at which the learning rate would be 0; by default
            ``num_steps``.
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
    first_step: int = 0
    num_scheduled_steps: int | None = None


@dataclass(frozen=True)
class Callbacks:
    """The functions that the loop calls.

    Attributes:
        record: A function of (number of finished steps, metrics), called by rank 0 only.
        checkpoint: A function of (number of finished steps, metrics of the last step), called by
            every rank at the same steps.
        preempted: A function that says whether a node of this training will soon be taken away. It
            is called by every rank at the same steps, and all get the same answer.
        alive: A function that is called after every micro-batch and step.
    """

    record: Callable[[int, Mapping[str, float]], None]
    checkpoint: Callable[[int, Mapping[str, float]], None]
    preempted: Callable[[], bool] = lambda: False
    alive: Callable[[], None] = lambda: None


class TrainingLoop:
    """Runs an engine over a plan of steps.

    Args:
        engine: This rank's engine.
        training: The tokenised training rows.
        validation: The tokenised rows that are held out, or None.
        plan: The rows of each step.
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
        self._checked_at = time.monotonic()
        self._saved_for_preemption = False

    def run(self, start: int | None = None) -> dict[str, float]:
        """Trains to the end; returns the last step's metrics.

        The validation loss is computed before the first step, too.

        Args:
            start: The number of finished steps; by default ``first_step`` of the settings.

        Raises:
            UserError: A loss or gradient is not finite. Every rank raises it; it names the step
                and its rows. The last checkpoint is kept.
        """
        metrics: dict[str, float] = {}
        first = self._settings.first_step
        start = first if start is None else start
        if start == first and self._validation is not None:
            before = self.validate()
            if self._rank == 0:
                self._callbacks.record(first, before)
        steps = range(start, self._settings.num_steps)
        ahead = made_ahead(self._prepare, steps)
        for step in steps:
            done = step + 1
            began = time.monotonic()
            # An earlier validation loss must not be reported with this step's checkpoint.
            metrics, is_check_due = self._step(step, next(ahead), began)
            validated = self._validation and self._due(done, self._settings.validate_every_steps)
            if validated:
                metrics |= self.validate()
            self._callbacks.alive()
            if self._rank == 0 and (validated or self._due(done, self._settings.log_every_steps)):
                self._callbacks.record(done, metrics)
            if self._due(done, self._settings.checkpoint_every_steps) or (
                is_check_due and self._is_preempted()
            ):
                self._callbacks.checkpoint(done, metrics)
        return metrics

    def validate(self) -> dict[str, float]:
        """The mean loss per target token over the held-out rows, as a metric."""
        assert self._validation is not None
        self._engine.train(False)
        total = self._zero()
        with torch.no_grad():
            for batch in self._micro_batches(self._validation, list(range(len(self._validation)))):
                total += self._engine.loss(batch)
                self._callbacks.alive()
        self._engine.train(True)
        return {VALIDATION_LOSS: self._mean_over_ranks(total)}

    def _prepare(self, step: int) -> list[MicroBatch]:
        """The micro-batches of a step, made by a thread while the step before runs."""
        batches = self._micro_batches(self._training, self._plan.rows(step))
        return [b.pinned() for b in batches] if self._engine.device.type == "cuda" else batches

    def _step(
        self, step: int, batches: list[MicroBatch], began: float
    ) -> tuple[dict[str, float], bool]:
        """One optimizer step: its metrics, and whether a check for preemption is due."""
        rows = self._plan.rows(step)
        # Dropout differs between ranks and steps, but not between a resumed run and an
        # uninterrupted one.
        torch.manual_seed((self._settings.seed << 44) + (step << 14) + self._rank)
        total = self._zero()
        for batch in batches:
            loss = self._engine.loss(batch)
            self._engine.backward(loss)
            total += loss.detach()
            self._callbacks.alive()
        rate = learning_rate(
            step,
            peak=self._settings.learning_rate,
            num_steps=self._settings.num_scheduled_steps or self._settings.num_steps,
            num_warmup_steps=self._settings.lr_warmup_steps,
            schedule=self._settings.lr_schedule,
        )
        shared = self._agree(total, began)
        norm = self._engine.step(rate)
        # Only now is the loss read, so that the device is waited for once in a step.
        mean, is_check_due = shared.tolist()
        self._check_finite("loss", mean, step + 1, rows)
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
        }, is_check_due > 0

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

    def _zero(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.float64, device=self._engine.device)

    def _agree(self, total: torch.Tensor, now: float) -> torch.Tensor:
        """The loss over all ranks, and 1 if rank 0's clock says that a check is due, or else 0."""
        due = self._rank == 0 and now - self._checked_at > _PREEMPTION_CHECK_S
        shared = torch.stack([total / self._num_ranks, torch.full_like(total, due)])
        dist.all_reduce(shared)
        if due:
            self._checked_at = now
        return shared

    def _mean_over_ranks(self, total: torch.Tensor) -> float:
        mean = total / self._num_ranks
        dist.all_reduce(mean)
        return float(mean)

    def _is_preempted(self) -> bool:
        """Whether a preemption needs a checkpoint now, which is true once."""
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
                fix=f"lower {self._settings.section}.learning_rate or look at the rows; the latest"
                " checkpoint, if there is one, is kept",
            )
