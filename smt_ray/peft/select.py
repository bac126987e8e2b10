"""The selection of blocks in a notebook: a few batches of a data loader, without the pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from smt_ray.errors import UserError
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.grid import Shapes, check_block_size, common_block_size
from smt_ray.smt.linears import dense_weight, linear_shapes
from smt_ray.smt.scores import STEP_SCORES, ScoreTable, block_statistics
from smt_ray.smt.selection import Selection, select_blocks

Loss = Callable[[nn.Module, Any], Tensor]
"""A function of the model and a batch that returns the loss, a scalar."""

_FINEST = 32


def select(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    num_steps: int = 100,
    target_modules: Sequence[str] | Literal["auto"] = "auto",
    loss: Loss | None = None,
    block_size: int | Literal["auto"] = "auto",
    score: str = "mean_of_abs",
    **selecting: Any,
) -> Selection:
    """Selects the blocks with the highest scores of a warm-up (paper section 3.2).

    >>> selection = select(model, dataloader, budget=0.0084)

    Args:
        model: The base model, in the mode (training or evaluation) of the warm-up.
        dataloader: The batches; see :func:`score_table`.
        num_steps: The number of batches, or fewer if the data loader has fewer.
        target_modules: The linears whose blocks may be selected, by their names or the last parts
            of their names; auto is those that make queries, keys and values.
        loss: A function that returns the loss of a batch; by default ``model(**batch).loss``.
        block_size: The side of a block in elements; auto is the largest size up to 256 that divides
            every dimension of the linears.
        score: The score; see :meth:`smt_ray.ScoreTable.scores`.
        selecting: The other arguments of :func:`smt_ray.select_blocks`: ``budget`` or
            ``num_blocks``, ``scope``, ``groups``.

    Raises:
        UserError: A name matches no linear, there is no batch, or the blocks cannot be selected.
    """
    table = score_table(
        model,
        dataloader,
        num_steps=num_steps,
        target_modules=target_modules,
        loss=loss,
        block_size=block_size,
        per_step=score in STEP_SCORES,
    )
    return select_blocks(table, block_size=block_size, score=score, **selecting)


def score_table(
    model: nn.Module,
    dataloader: Iterable[Any],
    *,
    num_steps: int = 100,
    target_modules: Sequence[str] | Literal["auto"] = "auto",
    loss: Loss | None = None,
    block_size: int | Literal["auto"] = "auto",
    per_step: bool = False,
) -> ScoreTable:
    """Sums the gradients of some batches, and reduces them to the statistics of blocks.

    From one table, blocks of any budget, size and score can be selected.

    Args:
        model: The base model. Its parameters and their gradients are left as they are.
        dataloader: The batches, as mappings of the model's inputs with ``labels``, or whatever
            ``loss`` takes. Tensors are moved to the model's device.
        num_steps: See :func:`select`.
        target_modules: See :func:`select`.
        loss: See :func:`select`.
        block_size: The finest size of blocks that can be selected from the table; auto is the
            largest size up to 32 that divides every dimension of the linears.
        per_step: Whether the gradients of single batches are summed up, too, for the scores
            ``step_mean_of_abs`` and ``step_l2``. It takes the memory of a second sum.

    Raises:
        UserError: A name matches no linear, there is no batch, or a loss is missing or not finite.
    """
    linears = find_eligible(model, target_modules, field="target_modules")
    size = _finest(linear_shapes(linears), block_size)
    device = next(model.parameters()).device
    batches, count = itertools.islice(dataloader, num_steps), 0
    sums = GradientAccumulator(model, linears, step_block_size=size if per_step else None)
    with sums as accumulator, torch.enable_grad():
        for batch in tqdm(batches, desc="warm-up", total=_length(dataloader, num_steps)):
            value = (loss or _own_loss)(model, _moved(batch, device))
            if not bool(torch.isfinite(value)):
                raise UserError(f"the loss of batch {count}", "must be finite", got=float(value))
            value.backward()
            accumulator.end_step()
            count += 1
    if not count:
        raise UserError("dataloader", "must have at least one batch", got=0)
    statistics = {}
    for name in accumulator.names:
        weight = dense_weight(linears[name])
        gradient = accumulator.pop(name)
        found = [block_statistics(gradient, weight, size)]
        if per_step:
            found.append(accumulator.pop_statistics(name, gradient))
        statistics[name] = torch.cat(found).cpu()
    return ScoreTable(size, statistics, count_parameters(model), count)


def _finest(shapes: Shapes, block_size: int | Literal["auto"]) -> int:
    if block_size == "auto":
        return common_block_size(shapes, limit=_FINEST)
    check_block_size(shapes, block_size, field="block_size")
    return block_size


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a model of transformers computes from the labels in a batch."""
    found = getattr(model(**batch), "loss", None) if isinstance(batch, Mapping) else None
    if found is None:
        raise UserError(
            "dataloader",
            "must give mappings from which the model computes a loss",
            got=sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__,
            fix="add labels to the batches, or pass loss=function(model, batch)",
        )
    value: Tensor = found
    return value


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(_moved(value, device) for value in batch)
    return batch


def _length(dataloader: Iterable[Any], num_steps: int) -> int | None:
    try:
        return min(num_steps, len(dataloader))  # type: ignore[arg-type]
    except TypeError:
        return None
