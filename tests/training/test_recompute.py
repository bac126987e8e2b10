"""Claims about activation checkpointing: it keeps less, and some models do not support it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from smt_ray.data.batches import step_micro_batches
from smt_ray.errors import UserError
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.recompute import recompute_activations


@pytest.mark.parametrize("training", [True, False])
def test_layers_only_keep_their_input_and_the_gradient_is_the_same(
    make_llama: Callable[..., Any], make_encoded: Callable[..., Any], training: bool
) -> None:
    kept, gradients = [], []
    for recompute in (False, True):
        model = make_llama(num_hidden_layers=6).train(training)
        if recompute:
            recompute_activations(model, training=training)
        (batch,) = step_micro_batches(
            make_encoded(), range(8), mode="prefix_packed", max_tokens=1000, train_on_inputs=False
        )
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = SupervisedLoss(model, narrow=True).train(training)(batch)
        kept.append(sum(storages.values()))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert kept[1] < 0.6 * kept[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_a_model_without_support_is_named_in_the_error() -> None:
    with pytest.raises(UserError, match="not supported by Linear") as error:
        recompute_activations(nn.Linear(2, 2))
    assert error.value.field == "training.activation_checkpointing"
