"""The warm-up on the ranks of training, for models that do not fit one process.

Rank r of P computes every P-th step, so it does what a shard does. All ranks compute at the same
time, because under ZeRO-3 they gather the weights of each layer together. At the end the sum of
module m is added up on rank m mod P, its owner, which makes the module's statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smt_ray.data.batches import MicroBatch, StepPlan, is_packed, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.probe import Probe
from smt_ray.models.inspect import find_eligible
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.linears import dense_weight, linear_shape
from smt_ray.smt.scores import block_statistics
from smt_ray.training.batching_mode import BatchingMode, attention_kernel, choose_mode
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.frozen_engine import FrozenEngine
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.recompute import recompute_activations
from smt_ray.training.state import load_state, save_state
from smt_ray.warmup.parts import ModuleStatistics
from smt_ray.warmup.shard import check_finite

Keep = Callable[[str, Tensor, Tensor], None]
"""A function that stores something of a module: its name, summed gradient (O, I) and weight."""

_LOSSES = "losses"  # the name of their tensor in a checkpoint


@dataclass(frozen=True)
class RankWarmupSettings:
    """The settings of a warm-up on ranks; names and meanings are those of the run's configuration.

    Attributes:
        modules: The names of the eligible linears.
        block_size: The block size of the table.
        per_step: Whether the statistics of single steps are summed, too.
    """

    modules: tuple[str, ...]
    block_size: int
    per_step: bool
    num_steps: int
    batching: str
    max_tokens: int
    train_on_inputs: bool
    accumulate_on: str
    activation_checkpointing: bool
    engine: EngineSettings


class RankWarmup:
    """One rank's part of the warm-up.

    Every method is a collective; torch.distributed must be initialised.

    Args:
        model: The loaded base model, on ``settings.engine.loading_device(device)``.
        encoded: The tokenised training rows.
        plan: The rows of each step.
        settings: See :class:`RankWarmupSettings`.
        probe: What the architecture of the model allows.
        device: This rank's device.

    Attributes:
        batching: How rows are batched.
        kernel: What computes attention.
        losses: The loss of each step so far.
    """

    def __init__(
        self,
        model: nn.Module,
        encoded: EncodedRows,
        plan: StepPlan,
        settings: RankWarmupSettings,
        probe: Probe,
        device: torch.device,
    ) -> None:
        self._encoded, self._plan, self._settings, self._device = encoded, plan, settings, device
        self._rank, self._num_ranks = dist.get_rank(), dist.get_world_size()
        self.losses: list[float] = []
        self.batching: BatchingMode = choose_mode(model, settings.batching, probe, training=False)
        if settings.activation_checkpointing:
            recompute_activations(model, training=False)
        mode = self.batching
        loss = SupervisedLoss(model, narrow=mode.narrows, max_logits=mode.max_logits)
        self.kernel = attention_kernel(mode, loss.attention)
        self._linears = find_eligible(model, settings.modules)
        self._shapes = {name: linear_shape(module) for name, module in self._linears.items()}
        self._sums = GradientAccumulator(
            model,
            self._linears,
            "host" if settings.accumulate_on == "host" else device,
            settings.block_size if settings.per_step else None,
            tapped=True,
        )
        self._sums.__enter__()  # before the engine partitions the weights; a rank ends with it
        self._engine = FrozenEngine(loss, settings.engine, device=device)

    def run(self) -> Iterator[int]:
        """Computes the remaining steps; yields the number of finished steps after each round.

        Raises:
            UserError: The loss of a step is not finite. Every rank raises it.
        """
        num_steps = self._settings.num_steps
        while (done := len(self.losses)) < num_steps:
            mine = done + self._rank
            total = self._add_gradient(self._batches(mine) if mine < num_steps else [])
            self._sums.end_step()
            for step, loss in enumerate(self._gathered(total)[: num_steps - done], done):
                positions = self._encoded.positions[self._plan.rows(step)]
                check_finite(loss, step + 1, positions.tolist())
                self.losses.append(loss)
            yield len(self.losses)

    def save(self, folder: Path) -> None:
        """Writes this rank's share of a checkpoint: the sums that it owns, and on rank 0 losses."""
        tensors: dict[str, Tensor] = {}
        for name, is_mine in self._owned():
            for key, total in self._sums.totals(name).items():
                self._add_up(total, name)
                if is_mine:
                    tensors[f"{name}/{key}"] = total.cpu()
        if self._rank == 0:
            tensors[_LOSSES] = torch.tensor(self.losses, dtype=torch.float64)
        save_state(folder, tensors, len(self.losses), self._rank, self._num_ranks)

    def load(self, folder: Path) -> None:
        """Restores a checkpoint, which any number of ranks may have written.

        Raises:
            UserError: The checkpoint is damaged.
        """
        state, _ = load_state(folder)
        self.losses = state[_LOSSES].tolist()
        for name, is_mine in self._owned():
            if is_mine:
                for key, total in self._sums.totals(name).items():
                    total.copy_(state[f"{name}/{key}"])

    def statistics(self, keep: Keep | None = None) -> list[ModuleStatistics]:
        """The rows of the table, in the order of the modules, on every rank.

        The sums are freed on the way.

        Args:
            keep: A function that the owner of a module calls.
        """
        return [self._reduce(name, is_mine, keep) for name, is_mine in self._owned()]

    def _reduce(self, name: str, is_mine: bool, keep: Keep | None) -> ModuleStatistics:
        size, linear = self._settings.block_size, self._linears[name]
        totals = self._sums.totals(name)
        for total in totals.values():
            self._add_up(total, name)
        gradient = self._sums.pop(name)
        grid = BlockGrid(*self._shapes[name], size)
        found = torch.zeros(4 + 2 * self._settings.per_step, grid.num_rows, grid.num_cols)
        found = found.to(self._device, torch.float64)
        with self._engine.whole(linear):
            if is_mine:
                weight = dense_weight(linear).detach()
                own = block_statistics(gradient, weight.to(gradient.device), size)
                found[:4] = own
                if "steps" in totals:
                    found[4:] = totals["steps"]
                if keep is not None:
                    keep(name, gradient.cpu(), weight.cpu())
        dist.broadcast(found, src=self._owner(name))
        return ModuleStatistics(name, found.cpu().numpy())

    def _owned(self) -> list[tuple[str, bool]]:
        """The modules, and whether this rank owns each."""
        return [(name, self._owner(name) == self._rank) for name in self._sums.names]

    def _owner(self, name: str) -> int:
        return self._settings.modules.index(name) % self._num_ranks

    def _add_up(self, total: Tensor, name: str) -> None:
        """Adds a sum over all ranks: the owner gets the total, and the others zeros."""
        exchanged = total.to(self._device)
        dist.reduce(exchanged, dst=self._owner(name))
        if self._owner(name) == self._rank:
            total.copy_(exchanged)
        else:
            total.zero_()

    def _batches(self, step: int) -> list[MicroBatch]:
        return step_micro_batches(
            self._encoded,
            self._plan.rows(step),
            mode=self.batching.mode,
            max_tokens=self._settings.max_tokens,
            train_on_inputs=self._settings.train_on_inputs,
        )

    def _add_gradient(self, batches: list[MicroBatch]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        if self._engine.is_partitioned:  # ranks without rows gather the weights, too
            number = torch.tensor(len(batches), device=self._device)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            idle = MicroBatch.idle(is_packed(self.batching.mode))
            batches = batches + [idle] * (int(number) - len(batches))
        for batch in batches:
            total += self._engine.backward(batch)
        return total

    def _gathered(self, loss: Tensor) -> list[float]:
        """The loss of every rank's step."""
        losses = loss.new_zeros(self._num_ranks)
        losses[self._rank] = loss
        dist.all_reduce(losses)
        found: list[float] = losses.tolist()
        return found
