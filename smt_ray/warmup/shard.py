"""One shard of the warm-up: it sums the gradients of some steps and yields them by module.

A shard computes whole steps, at the base weights, in evaluation mode, with the batches and the loss
of the training. So the number of shards changes the sum only by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from smt_ray.data.batches import MicroBatch, StepPlan, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.models.inspect import find_eligible
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.linears import dense_weight
from smt_ray.smt.scores import block_statistics
from smt_ray.training.batching_mode import choose_mode
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.warmup.parts import ModuleStatistics, ShardPart

if TYPE_CHECKING:
    from numpy.typing import NDArray


def shard_steps(num_steps: int, num_shards: int, shard: int) -> range:
    """The warm-up steps of one shard: every ``num_shards``-th, so that all have the same length."""
    return range(shard, num_steps, num_shards)


def place_steps(num_steps: int, num_shards: int, place: int, num_places: int) -> list[range]:
    """The steps of each of the shards that take turns on one place: every ``num_places``-th."""
    shards = range(place, num_shards, num_places)
    return [shard_steps(num_steps, num_shards, shard) for shard in shards]


def stream_place(
    model: nn.Module,
    encoded: EncodedRows,
    plan: StepPlan,
    shards: Sequence[Sequence[int]],
    *,
    statistics_block_size: int | None,
    **options: Any,
) -> Iterator[ShardPart]:
    """The sums over the shards that take turns on a place; see :func:`stream_shard`.

    With ``reduction: score``, the statistics of each shard are made before they are added.
    """
    options["statistics_block_size"] = statistics_block_size
    if statistics_block_size is None:
        steps = [step for shard in shards for step in shard]
        yield from stream_shard(model, encoded, plan, steps, **options)
        return
    parts = [list(stream_shard(model, encoded, plan, shard, **options)) for shard in shards]
    for of_module in zip(*parts, strict=True):
        yield reduce(ShardPart.plus, of_module)


def stream_shard(
    model: nn.Module,
    encoded: EncodedRows,
    plan: StepPlan,
    steps: Sequence[int],
    *,
    modules: Sequence[str],
    batching: str,
    probe: Probe,
    max_tokens: int,
    train_on_inputs: bool,
    device: torch.device,
    accumulate_on: str = "device",
    statistics_block_size: int | None = None,
    step_block_size: int | None = None,
    with_weights: bool = False,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Iterator[ShardPart]:
    """Sums gradients over steps, then yields one module after the other and frees it.

    Args:
        model: The base model, on ``device``.
        encoded: The tokenised training rows.
        plan: The rows of each step.
        steps: The steps of this shard.
        modules: The names of the eligible linears.
        batching: The configured batching mode.
        probe: What the architecture of the model allows.
        max_tokens: The largest number of tokens of a micro-batch.
        train_on_inputs: Whether prompt tokens are targets.
        device: The device that computes.
        accumulate_on: The place of the fp32 sums: ``device`` or ``host``.
        statistics_block_size: The block size of the table, to send statistics in the place of
            gradients (``reduction: score``); None to send gradients.
        step_block_size: The block size of the table, to sum the statistics of single steps too;
            None without them.
        with_weights: Whether weights are sent too, which the saliency needs from one shard.
        on_step: A function that is called with each step and its loss.

    Raises:
        UserError: The loss of a step is not finite; the error names the step and its rows.
    """
    chosen = choose_mode(model, batching, probe, training=False)
    loss = SupervisedLoss(model, narrow=chosen.narrows, max_logits=chosen.max_logits).eval()
    eligible = find_eligible(model, modules)
    place = "host" if accumulate_on == "host" else None
    accumulator = GradientAccumulator(model, eligible, place, step_block_size)
    with accumulator:
        for step in steps:
            rows = plan.rows(step)
            batches = step_micro_batches(
                encoded,
                rows,
                mode=chosen.mode,
                max_tokens=max_tokens,
                train_on_inputs=train_on_inputs,
            )
            value = _add_gradient(loss, batches, device)
            accumulator.end_step()
            check_finite(value, step + 1, encoded.positions[rows].tolist())
            on_step(step, value)
    for name in accumulator.names:
        weight = dense_weight(eligible[name]).detach()
        yield _make_part(name, accumulator, weight, statistics_block_size, with_weights)


def reduce_module(
    part: ShardPart,
    block_size: int,
    keep: Callable[[str, torch.Tensor, torch.Tensor], None] | None = None,
) -> ModuleStatistics:
    """Makes the entry of one module in the table from the sum of its parts.

    Args:
        part: The sum of the parts of all shards.
        block_size: The block size of the table.
        keep: A function that is called with the name, the summed gradient, (O, I) float32, and the
            weight, unless the shards sent statistics.
    """
    if part.statistics is not None:
        return _with_steps(part, part.statistics)
    assert part.gradient is not None
    assert part.weight is not None
    total = torch.tensor(part.gradient)  # a copy: arrays from the object store are read-only
    weight = _from_numpy(part.weight)
    if keep is not None:
        keep(part.module, total, weight)
    return _with_steps(part, block_statistics(total, weight, block_size).numpy())


def _with_steps(part: ShardPart, statistics: NDArray[Any]) -> ModuleStatistics:
    """The entry of a module, with the statistics of single steps if there are any."""
    if part.of_steps is not None:
        statistics = np.concatenate([statistics, part.of_steps])
    return ModuleStatistics(part.module, statistics)


def _add_gradient(loss: SupervisedLoss, batches: list[MicroBatch], device: torch.device) -> float:
    total = 0.0
    for batch in batches:
        value = loss(batch.to(device))
        value.backward()
        total += float(value.detach())
    return total


def _make_part(
    name: str,
    accumulator: GradientAccumulator,
    weight: torch.Tensor,
    block_size: int | None,
    with_weight: bool,
) -> ShardPart:
    """Block statistics if there is a block size, otherwise the gradient; and those of steps."""
    gradient = accumulator.pop(name)
    of_steps = None
    if accumulator.sums_steps:
        of_steps = accumulator.pop_statistics(name, gradient).cpu().numpy()
    if block_size is not None:
        statistics = block_statistics(gradient, weight.to(gradient.device), block_size)
        return ShardPart(name, statistics=statistics.cpu().numpy(), of_steps=of_steps)
    sent = _to_numpy(weight.cpu()) if with_weight else None
    return ShardPart(name, gradient=gradient.cpu().numpy(), weight=sent, of_steps=of_steps)


def check_finite(loss: float, step: int, positions: list[int]) -> None:
    """Refuses a loss that is not finite; the positions are those of its rows in the source."""
    if not np.isfinite(loss):
        raise UserError(
            "warmup",
            f"the loss of step {step} must be finite (rows {positions} of data.train)",
            got=loss,
            fix="check these rows, or use model.dtype=float32",
        )


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """The tensor as an array; numpy has no bfloat16, so its bits become int16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _from_numpy(array: NDArray[Any]) -> torch.Tensor:
    tensor = torch.tensor(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
