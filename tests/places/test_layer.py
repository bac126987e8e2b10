"""A layer with trained elements or columns learns what a dense linear learns at these places."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from smt_ray.errors import UserError
from smt_ray.places.layouts import ElementLayout, Kind, PlacedLinear

# Of a weight (12, 20).
PLACES: dict[Kind, Tensor] = {
    "element": torch.tensor([0, 7, 19, 20, 121, 239], dtype=torch.int32),
    "column": torch.tensor([0, 3, 4, 19], dtype=torch.int32),
}


def make(form: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A dense linear from 20 to 12 features; that of GPT-2 stores its weight as (20, 12)."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 12) if form == "linear" else Conv1D(12, 20)
    return linear.to(dtype)


def placed(dense: nn.Module, kind: Kind, places: Tensor | None = None) -> PlacedLinear:
    chosen = PLACES[kind] if places is None else places
    return PlacedLinear.from_linear(copy.deepcopy(dense), kind, (12, 20), chosen)


def at_places(stored: Tensor, form: str, kind: Kind) -> Tensor:
    """The places in a stored weight or gradient, by the definition of their numbers."""
    weight = stored if form == "linear" else stored.t()
    if kind == "column":
        return torch.stack([weight[:, n] for n in PLACES[kind].tolist()])
    return torch.stack([weight[n // 20, n % 20] for n in PLACES[kind].tolist()])


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


FORMS = pytest.mark.parametrize("form", ["linear", "conv1d"])
KINDS = pytest.mark.parametrize("kind", ["element", "column"])


@FORMS
@KINDS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forward_is_that_of_the_dense_linear(form: str, kind: Kind, dtype: torch.dtype) -> None:
    dense = make(form, dtype)
    x = draw(2, 7, 20, dtype=dtype)
    torch.testing.assert_close(placed(dense, kind)(x), dense(x), rtol=0, atol=0)


@FORMS
@KINDS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_gradients_are_those_of_the_dense_weight_at_the_elements(
    form: str, kind: Kind, dtype: torch.dtype, tolerance: float
) -> None:
    dense = make(form, dtype)
    layer, x, theirs = (
        placed(dense, kind),
        draw(2, 7, 20, dtype=dtype),
        draw(2, 7, 20, dtype=dtype),
    )
    for model, inputs in ((dense, x.requires_grad_()), (layer, theirs.requires_grad_())):
        model(inputs).square().sum().backward()
    expected: Any = dense.weight.grad
    found = layer.blocks.grad
    assert found is not None
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found.to(dtype), at_places(expected, form, kind), **close)
    torch.testing.assert_close(theirs.grad, x.grad, **close)
    assert layer.weight.grad is None


@FORMS
@KINDS
def test_every_update_acts_at_the_next_step_as_in_masked_dense_training(
    form: str, kind: Kind
) -> None:
    """The published code trains nothing in its first step, and loses its last update."""
    dense = make(form)
    layer = placed(dense, kind)
    mask = torch.zeros_like(dense.weight)
    layer.layout.scatter_(mask, layer.indices, torch.ones_like(layer.blocks))
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
    changed = (tuned.weight != make(form).weight).sum()
    assert int(changed) == layer.blocks.numel() == int(mask.sum())


@FORMS
@KINDS
def test_merging_and_unmerging_give_the_class_of_the_linear(form: str, kind: Kind) -> None:
    dense: Any = make(form)
    layer = placed(dense, kind)
    layer.blocks.data += 1
    plain: Any = layer.unmerge()
    assert type(plain) is type(dense)
    assert torch.equal(plain.weight, dense.weight)
    layer = placed(dense, kind)
    layer.blocks.data += 1
    merged: Any = layer.merge()
    difference = at_places(merged.weight - dense.weight, form, kind)
    torch.testing.assert_close(difference, torch.ones_like(difference))


@KINDS
def test_values_of_bfloat16_weights_are_float32(kind: Kind) -> None:
    layer = placed(make("linear", torch.bfloat16), kind)
    assert layer.blocks.dtype == torch.float32
    layer.blocks.data += 1e-6  # less than bfloat16 resolves
    difference = layer.blocks.detach() - layer.original_blocks.float()
    assert float(difference.abs().min()) > 0


@KINDS
def test_frozen_values_that_were_changed_are_written(kind: Kind) -> None:
    layer = placed(make("linear"), kind)
    layer.blocks.requires_grad_(False)
    with torch.no_grad():
        before = layer(draw(3, 20))
        layer.blocks.add_(1)
        assert not torch.equal(layer(draw(3, 20)), before)


@KINDS
def test_a_state_of_other_places_is_refused(kind: Kind) -> None:
    other = placed(make("linear"), kind, PLACES[kind].flip(0))
    with pytest.raises(RuntimeError, match="another selection"):
        placed(make("linear"), kind).load_state_dict(other.state_dict())


def test_columns_keep_nothing_else_of_the_input() -> None:
    saved: list[Tensor] = []
    layer, x = placed(make("linear"), "column"), draw(5, 20)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert sorted(t.shape for t in saved) == [(4, 12), (5, 4), (12, 20)]  # values, kept x, weight


def test_a_sharded_weight_is_refused() -> None:
    places = PLACES["element"]
    with pytest.raises(UserError, match="FSDP2"):
        ElementLayout((12, 20), places).scatter_shard_(torch.zeros(12, 20), places, torch.zeros(6))
