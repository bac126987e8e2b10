"""A layer with trained elements computes and learns what a dense linear does at these elements."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from smt_ray.errors import UserError
from smt_ray.sift.layer import ElementLayout, ElementLinear

ELEMENTS = torch.tensor([0, 7, 19, 20, 121, 239], dtype=torch.int32)  # of (12, 20)


def make(kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A dense linear from 20 to 12 features; that of GPT-2 stores its weight as (20, 12)."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 12) if kind == "linear" else Conv1D(12, 20)
    return linear.to(dtype)


def with_elements(dense: nn.Module, elements: Tensor = ELEMENTS) -> ElementLinear:
    return ElementLinear.from_linear(copy.deepcopy(dense), (12, 20), elements)


def at_elements(stored: Tensor, kind: str) -> Tensor:
    """The elements of a stored weight or gradient, by the definition of their numbers."""
    weight = stored if kind == "linear" else stored.t()
    return torch.stack([weight[n // 20, n % 20] for n in ELEMENTS.tolist()])


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


KINDS = pytest.mark.parametrize("kind", ["linear", "conv1d"])


@KINDS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forward_is_that_of_the_dense_linear(kind: str, dtype: torch.dtype) -> None:
    dense = make(kind, dtype)
    x = draw(2, 7, 20, dtype=dtype)
    torch.testing.assert_close(with_elements(dense)(x), dense(x), rtol=0, atol=0)


@KINDS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_gradients_are_those_of_the_dense_weight_at_the_elements(
    kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    dense = make(kind, dtype)
    layer, x, theirs = (
        with_elements(dense),
        draw(2, 7, 20, dtype=dtype),
        draw(2, 7, 20, dtype=dtype),
    )
    for model, inputs in ((dense, x.requires_grad_()), (layer, theirs.requires_grad_())):
        model(inputs).square().sum().backward()
    expected: Any = dense.weight.grad
    found = layer.blocks.grad
    assert found is not None
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found.to(dtype), at_elements(expected, kind), **close)
    torch.testing.assert_close(theirs.grad, x.grad, **close)
    assert layer.weight.grad is None


@KINDS
def test_every_update_acts_at_the_next_step_as_masked_dense_training_does(kind: str) -> None:
    """The published code trains nothing in its first step, and loses its last update."""
    dense = make(kind)
    layer = with_elements(dense)
    mask = torch.zeros(12 * 20)
    mask[ELEMENTS.long()] = 1
    mask = mask.view(12, 20) if kind == "linear" else mask.view(12, 20).t()
    options = {"lr": 0.05, "weight_decay": 0.0}
    reference = torch.optim.AdamW([dense.weight], **options)
    optimizer = torch.optim.AdamW([layer.blocks], **options)
    x, target = draw(9, 20), draw(9, 12)
    for _ in range(5):
        losses = []
        for model, optimiser in ((dense, reference), (layer, optimizer)):
            optimiser.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            if model is dense:
                dense.weight.grad *= mask
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    tuned: Any = layer.merge()
    torch.testing.assert_close(tuned.weight, dense.weight, rtol=0, atol=1e-12)
    changed = (tuned.weight != make(kind).weight).sum()
    assert int(changed) == len(ELEMENTS)


@KINDS
def test_merging_and_unmerging_give_the_class_of_the_linear(kind: str) -> None:
    dense: Any = make(kind)
    layer = with_elements(dense)
    layer.blocks.data += 1
    plain: Any = layer.unmerge()
    assert type(plain) is type(dense)
    assert torch.equal(plain.weight, dense.weight)
    layer = with_elements(dense)
    layer.blocks.data += 1
    merged: Any = layer.merge()
    difference = at_elements(merged.weight - dense.weight, kind)
    torch.testing.assert_close(difference, torch.ones_like(difference))


def test_elements_of_bfloat16_weights_are_float32() -> None:
    layer = with_elements(make("linear", torch.bfloat16))
    assert layer.blocks.dtype == torch.float32
    layer.blocks.data += 1e-6  # less than bfloat16 resolves
    difference = layer.blocks.detach() - layer.original_blocks.float()
    assert float(difference.abs().min()) > 0


def test_frozen_elements_that_were_changed_are_written() -> None:
    layer = with_elements(make("linear"))
    layer.blocks.requires_grad_(False)
    with torch.no_grad():
        before = layer(draw(3, 20))
        layer.blocks.add_(1)
        assert not torch.equal(layer(draw(3, 20)), before)


def test_a_state_of_other_elements_is_refused() -> None:
    other = with_elements(make("linear"), ELEMENTS.flip(0))
    with pytest.raises(RuntimeError, match="another selection"):
        with_elements(make("linear")).load_state_dict(other.state_dict())


def test_a_sharded_weight_is_refused() -> None:
    layout, weight = ElementLayout((12, 20), ELEMENTS), torch.zeros(12, 20)
    with pytest.raises(UserError, match="FSDP2"):
        layout.scatter_shard_(weight, ELEMENTS, torch.zeros(6))
