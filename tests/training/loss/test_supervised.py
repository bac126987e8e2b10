"""Claims about the loss of a micro-batch, against all logits of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from smt_ray.data.batches import MicroBatch, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.smt.model import make_sparse
from smt_ray.training.loss.supervised import SupervisedLoss


def mean_loss(model: Any, encoded: EncodedRows, rows: list[int], train_on_inputs: bool) -> Any:
    """The loss of a step from all logits of each single row."""
    total, num_targets = torch.zeros(()), 0
    for row in rows:
        ids = encoded.row(row).long()
        first = 1 if train_on_inputs else int(encoded.prompt_lengths[row])
        logits = model(input_ids=ids[None]).logits[0]
        total = total + F.cross_entropy(logits[first - 1 : -1], ids[first:], reduction="sum")
        num_targets += len(ids) - first
    return total / num_targets


@pytest.mark.parametrize("train_on_inputs", [False, True])
@pytest.mark.parametrize("max_tokens", [1, 80])
def test_the_loss_of_a_step_is_the_mean_over_its_targets_in_any_batches(
    make_llama: Callable[..., Any],
    make_encoded: Callable[..., EncodedRows],
    train_on_inputs: bool,
    max_tokens: int,
) -> None:
    model, encoded, rows = make_llama(), make_encoded(), [3, 1, 20, 36, 9]
    expected = mean_loss(model, encoded, rows, train_on_inputs)
    loss = SupervisedLoss(model, narrow=False)
    batches = step_micro_batches(
        encoded, rows, mode="padded", max_tokens=max_tokens, train_on_inputs=train_on_inputs
    )
    assert len(batches) == (5 if max_tokens == 1 else 2)
    torch.testing.assert_close(sum(loss(batch) for batch in batches), expected)


def test_the_head_only_gets_supervised_positions(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> None:
    model, encoded = make_llama(), make_encoded()
    shapes = []
    model.lm_head.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    loss = SupervisedLoss(model, narrow=False)
    (batch,) = step_micro_batches(
        encoded, [0, 1], mode="padded", max_tokens=80, train_on_inputs=False
    )
    loss(batch)
    num_targets = int(encoded.num_targets(False)[:2].sum())
    assert shapes == [(1, num_targets, 100)]


def test_the_model_itself_still_computes_all_logits(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> None:
    model, encoded = make_llama(), make_encoded()
    ids = torch.arange(12).view(2, 6)
    before = model(input_ids=ids).logits
    loss = SupervisedLoss(model, narrow=False)
    loss(step_micro_batches(encoded, [0], mode="padded", max_tokens=80, train_on_inputs=False)[0])
    with pytest.raises(IndexError):
        loss(MicroBatch(ids, torch.tensor([99]), torch.tensor([1]), torch.ones(1)))
    assert torch.equal(model(input_ids=ids).logits, before)


def test_a_rank_without_rows_has_zero_gradients_and_takes_part_in_backward(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> None:
    model, encoded = make_llama(), make_encoded()
    (batch,) = step_micro_batches(
        encoded, [0], mode="padded", max_tokens=80, train_on_inputs=False, rank=1, num_ranks=2
    )
    loss = SupervisedLoss(model, narrow=False)(batch)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert loss.item() == 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_layers_below_the_lowest_trained_block_have_no_graph(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> None:
    model, seen = make_llama(num_hidden_layers=4), []
    names = ["model.layers.2.self_attn.q_proj", "model.layers.3.self_attn.k_proj"]
    shapes = {name: tuple(model.get_submodule(name).weight.shape) for name in names}
    make_sparse(model, 8, shapes, dict.fromkeys(names, torch.tensor([[0, 0]])), {})
    for layer in model.model.layers:
        layer.register_forward_hook(lambda *args: seen.append(args[-1].requires_grad))
    (batch,) = step_micro_batches(
        make_encoded(), [0, 1], mode="prefix_packed", max_tokens=80, train_on_inputs=False
    )
    SupervisedLoss(model, narrow=False)(batch).backward()
    assert seen == [False, False, True, True]
