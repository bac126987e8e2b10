"""Claims about the last layer: only supervised positions are computed; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smt_ray.data.batches import step_micro_batches
from smt_ray.training.loss.last_layer import can_narrow
from smt_ray.training.loss.supervised import SupervisedLoss

Make = Callable[..., Any]


def whole_loss(model: Any, batch: Any) -> torch.Tensor:
    """The same sum from all logits."""
    logits = model(input_ids=batch.input_ids).logits
    logits = logits.reshape(-1, logits.shape[-1])[batch.positions]
    losses = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    return (losses * batch.weights).sum()


@pytest.mark.parametrize("rows", [[3, 1, 20], [5]], ids=["rows", "a row"])
def test_loss_and_gradients_equal_those_of_the_whole_layer(
    make_llama: Make, make_encoded: Make, rows: list[int]
) -> None:
    (batch,) = step_micro_batches(
        make_encoded(), rows, mode="padded", max_tokens=1000, train_on_inputs=False
    )
    whole, narrowed = make_llama().double(), make_llama().double()
    expected, found = whole_loss(whole, batch), SupervisedLoss(narrowed, narrow=True)(batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    expected.backward()
    found.backward()
    for one, other in zip(narrowed.parameters(), whole.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) < 1e-6 * float(other.grad.norm())


def test_the_last_mlp_only_gets_supervised_positions(make_llama: Make, make_encoded: Make) -> None:
    model, encoded, seen = make_llama(), make_encoded(), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    (batch,) = step_micro_batches(
        encoded, [3, 1], mode="packed", max_tokens=1000, train_on_inputs=False
    )
    SupervisedLoss(model, narrow=True)(batch)
    num_targets = int(encoded.num_targets(False)[[3, 1]].sum())
    assert seen == [batch.input_ids.shape[1], num_targets]


def test_the_model_itself_still_computes_all_positions(
    make_llama: Make, make_encoded: Make
) -> None:
    model, ids = make_llama(), torch.arange(10)[None]
    expected = model(input_ids=ids).logits
    loss = SupervisedLoss(model, narrow=True)
    (batch,) = step_micro_batches(
        make_encoded(), [0], mode="padded", max_tokens=1000, train_on_inputs=False
    )
    loss(batch)
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_hooks_can_be_removed(make_llama: Make) -> None:
    model = make_llama()
    SupervisedLoss(model, narrow=True).detach_from_model()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_layer_without_the_needed_parts_is_not_narrowed() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    assert not can_narrow(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4)))
