"""A shard of a warm-up without gradients: it sums the absolute inputs of linears."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.models.inspect import find_eligible
from smt_ray.warmup.parts import ShardPart


def stream_activations(
    model: nn.Module,
    encoded: EncodedRows,
    plan: StepPlan,
    steps: Sequence[int],
    *,
    modules: Sequence[str],
    train_on_inputs: bool,
    device: torch.device,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Iterator[ShardPart]:
    """Sums abs(x) over the tokens of the rows of some steps, then yields one module after another.

    Rows are computed one by one, without padding and without shared prefixes, so that every token
    counts once for each of its rows. The last token of a row is only a target.

    Args:
        model: The base model, on ``device``.
        encoded: The tokenised training rows.
        plan: The rows of each step.
        steps: The steps of this shard.
        modules: The names of the eligible linears.
        train_on_inputs: Whether prompt tokens are targets of the loss that is reported.
        device: The device that computes.
        on_step: A function that is called with each step and its loss.
    """
    sums: dict[str, Tensor] = {}
    model.eval()
    with _summed(find_eligible(model, modules), sums), torch.no_grad():
        for step in steps:
            total, num_targets = 0.0, 0
            for row in plan.rows(step):
                ids = encoded.row(row).to(device, torch.int64)
                targets = encoded.targets(row, train_on_inputs).to(device)
                loss = _loss(model, ids, targets)
                total, num_targets = total + loss, num_targets + len(targets)
            on_step(step, total / num_targets)
    for name in modules:
        yield ShardPart(name, statistics=sums[name].cpu().numpy())


def _loss(model: Any, ids: Tensor, targets: Tensor) -> float:
    logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0]
    return float(F.cross_entropy(logits[targets - 1].float(), ids[targets], reduction="sum"))


@contextmanager
def _summed(linears: Mapping[str, nn.Module], sums: dict[str, Tensor]) -> Iterator[None]:
    """Adds the absolute inputs of linears to sums, (1, I) float64, while the context is open."""

    def add(name: str, _linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = inputs[0].detach().abs().double().flatten(0, -2).sum(0, keepdim=True)
        sums[name] = sums[name] + found if name in sums else found

    with ExitStack() as stack:
        for name, linear in linears.items():
            handle = linear.register_forward_pre_hook(partial(add, name))
            stack.callback(handle.remove)
        yield
