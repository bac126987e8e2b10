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


def test_layers_only_keep_their_input(
    make_llama: Callable[..., Any], make_encoded: Callable[..., Any]
) -> None:
    kept = []
    for recompute in (False, True):
        model = make_llama(num_hidden_layers=6).train()
        if recompute:
            recompute_activations(model)
        (batch,) = step_micro_batches(
            make_encoded(), range(8), mode="prefix_packed", max_tokens=1000, train_on_inputs=False
        )
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = SupervisedLoss(model, narrow=False)(batch)
        del loss
        kept.append(sum(storages.values()))
    assert kept[1] < 0.6 * kept[0]


def test_a_model_without_support_is_named_in_the_error() -> None:
    with pytest.raises(UserError, match="not supported by Linear") as error:
        recompute_activations(nn.Linear(2, 2))
    assert error.value.field == "training.activation_checkpointing"
