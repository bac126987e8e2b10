"""Claims about the loss of a step, against transformers on one padded batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.training.loss.supervised import SupervisedLoss

ROWS = [3, 1, 20, 36, 9, 11, 2]
IGNORED = -100


def padded_loss(
    model: Any, encoded: EncodedRows, rows: list[int], train_on_inputs: bool
) -> torch.Tensor:
    """The loss by transformers: the mean over the labels that are not masked."""
    width = int(encoded.lengths[rows].max())
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for place, row in enumerate(rows):
        length, prompt = int(encoded.lengths[row]), int(encoded.prompt_lengths[row])
        ids[place, :length] = labels[place, :length] = encoded.row(row).long()
        mask[place, :length] = 1
        if not train_on_inputs:
            labels[place, :prompt] = IGNORED
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def gradient(model: Any) -> torch.Tensor:
    """The gradients of all parameters in one vector; the model's own are reset."""
    found = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad(set_to_none=True)
    return found


def divided(
    model: Any, encoded: EncodedRows, num_ranks: int, **options: Any
) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of a step, averaged over ranks."""
    loss, total = SupervisedLoss(model, narrow=False), 0.0
    for rank in range(num_ranks):
        for batch in step_micro_batches(
            encoded,
            ROWS,
            rank=rank,
            num_ranks=num_ranks,
            **options,
        ):
            value = loss(batch) / num_ranks
            value.backward()
            total += value.item()
    return total, gradient(model)


@pytest.mark.parametrize("train_on_inputs", [False, True])
@pytest.mark.parametrize("mode", ["padded", "packed", "prefix_packed"])
@pytest.mark.parametrize("max_tokens", [1, 40, 4096])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_loss_and_gradient_equal_those_of_one_padded_batch(
    make_llama: Callable[..., Any],
    make_encoded: Callable[..., EncodedRows],
    num_ranks: int,
    max_tokens: int,
    mode: str,
    train_on_inputs: bool,
) -> None:
    model, encoded = make_llama(), make_encoded()
    reference = padded_loss(model, encoded, ROWS, train_on_inputs)
    reference.backward()
    expected = gradient(model)
    value, found = divided(
        model,
        encoded,
        num_ranks,
        mode=mode,
        max_tokens=max_tokens,
        train_on_inputs=train_on_inputs,
    )
    assert value == pytest.approx(reference.item(), rel=1e-6)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_training_on_inputs_has_another_loss(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> None:
    model, encoded = make_llama(), make_encoded()
    losses = {padded_loss(model, encoded, ROWS, on).item() for on in (False, True)}
    assert len({round(loss, 4) for loss in losses}) == 2
