"""One shard: the gradient sum of some warm-up steps, given away module by module.

Steps are whole, at the base weights and in evaluation mode, with training's own batches and loss,
so that the sum over shards does not depend on how many there are, beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.encoding import EncodedRows
from smt_ray.errors import UserError
from smt_ray.models.inspect import find_eligible
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.scores import block_statistics
from smt_ray.training.batching_mode import choose_mode
from smt_ray.training.loss import SupervisedLoss


def shard_steps(num_steps: int, num_shards: int, shard: int) -> range:
    """The warm-up steps of one shard: every ``num_shards``-th, so that shards are equally long."""
    return range(shard, num_steps, num_shards)


def stream_shard(
    model: nn.Module,
    encoded: EncodedRows,
    plan: StepPlan,
    steps: Sequence[int],
    *,
    target_modules: Sequence[str],
    batching: str,
    max_tokens: int,
    train_on_inputs: bool,
    device: torch.device,
    accumulate_on: str = "device",
    statistics_block_size: int | None = None,
    with_weights: bool = False,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Iterator[dict[str, Any]]:
    """Sums gradients over steps, then yields one module after the other, freeing each.

    Args:
        model: The base model, on ``device``.
        encoded: The tokenised training rows.
        plan: Which rows make a step.
        steps: The shard's steps.
        target_modules: Eligible linears by the last parts of their names.
        batching: How rows become micro-batches: ``padded``, ``packed`` or ``prefix_packed``; the
            model may need another than asked for.
        max_tokens: Tokens of a micro-batch.
        train_on_inputs: Whether prompt tokens are targets.
        device: Where to compute.
        accumulate_on: ``device`` or ``host``, where the fp32 sums are kept.
        statistics_block_size: With ``reduction: score``, the table's block size: statistics are
            sent instead of gradients.
        with_weights: Send each module's weight too; one shard does, for the saliency.
        on_step: Called with each step and its loss.

    Yields:
        ``{"module", "gradient": (O, I) float32}`` and perhaps ``"weight"``, as numpy arrays; or
        ``{"module", "statistics": (4, R, C) float64}``.

    Raises:
        UserError: A step's loss is not finite; the step and its rows are named.
    """
    loss = SupervisedLoss(model).eval()
    eligible = find_eligible(model, target_modules)
    mode = choose_mode(model, batching, training=False).mode
    accumulator = GradientAccumulator(model, eligible, "host" if accumulate_on == "host" else None)
    with accumulator:
        for step in steps:
            rows = plan.rows(step)
            batches = step_micro_batches(
                encoded, rows, mode=mode, max_tokens=max_tokens, train_on_inputs=train_on_inputs
            )
            value = _add_gradient(loss, batches, device)
            _check_finite(value, step + 1, encoded.positions[rows].tolist())
            on_step(step, value)
    for name in accumulator.names:
        weight = eligible[name].weight.detach()
        gradient = accumulator.pop(name)
        yield {"module": name} | _sent(gradient, weight, statistics_block_size, with_weights)


def reduce_module(items: Sequence[dict[str, Any]], block_size: int) -> dict[str, Any]:
    """Adds the shards' contributions to one module, in their order, and makes its table entry.

    Args:
        items: What the shards yielded for the module, in the order of the shards.
        block_size: The table's block size.

    Returns:
        ``{"module", "statistics": (4, R, C) float64}``.
    """
    names = {item["module"] for item in items}
    assert len(names) == 1, names
    name = names.pop()
    if "statistics" in items[0]:
        return {"module": name, "statistics": np.sum([i["statistics"] for i in items], axis=0)}
    # A copy: what comes out of the object store is read-only.
    total = torch.from_numpy(items[0]["gradient"].copy())
    for item in items[1:]:
        total += torch.tensor(item["gradient"])
    weight = _from_numpy(next(item["weight"] for item in items if "weight" in item))
    return {"module": name, "statistics": block_statistics(total, weight, block_size).numpy()}


def _add_gradient(loss: SupervisedLoss, batches: list[Any], device: torch.device) -> float:
    total = 0.0
    for batch in batches:
        value = loss(batch.to(device))
        value.backward()
        total += float(value.detach())
    return total


def _sent(
    gradient: torch.Tensor, weight: torch.Tensor, block_size: int | None, with_weight: bool
) -> dict[str, Any]:
    """What a shard sends of a module: block statistics where a size is given, else the sum."""
    if block_size is not None:
        statistics = block_statistics(gradient, weight.to(gradient.device), block_size)
        return {"statistics": statistics.cpu().numpy()}
    sent = {"gradient": gradient.cpu().numpy()}
    return sent | {"weight": _to_numpy(weight.cpu())} if with_weight else sent


def _check_finite(loss: float, step: int, positions: list[int]) -> None:
    if not np.isfinite(loss):
        raise UserError(
            "warmup",
            f"the loss of step {step} must be finite (rows {positions} of data.train)",
            got=loss,
            fix="check these rows, or use model.dtype=float32",
        )


def _to_numpy(tensor: torch.Tensor) -> Any:
    """Numpy has no bfloat16: its bits travel as int16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _from_numpy(array: Any) -> torch.Tensor:
    tensor = torch.tensor(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
