"""Claims about weights that others gather, move or replace between uses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from smt_ray.smt.layers.linear import SparseLinear

INDICES = torch.tensor([[0, 1], [1, 1], [1, 4], [2, 0]], dtype=torch.int32)


def draw(seed: int = 3) -> Tensor:
    return torch.randn(6, 20, generator=torch.Generator().manual_seed(seed))


def tuned() -> tuple[SparseLinear, Tensor, Tensor]:
    """A layer that was trained, its base weight, and the weight with its blocks."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 12)
    base = linear.weight.detach().clone()
    layer = SparseLinear.from_linear(linear, INDICES, 4)
    with torch.no_grad():
        layer.blocks.add_(1)
    expected = base.clone()
    layer.grid.scatter_(expected, INDICES, layer.blocks.detach())
    layer(draw())
    return layer, base, expected


def in_other_memory(layer: SparseLinear, base: Tensor) -> None:
    layer.weight.data = base.clone()


def another_parameter(layer: SparseLinear, base: Tensor) -> None:
    layer.weight = nn.Parameter(base.clone(), requires_grad=False)


def a_plain_tensor(layer: SparseLinear, base: Tensor) -> None:
    del layer.weight
    layer.weight = base.clone()


def in_place(layer: SparseLinear, base: Tensor) -> None:
    layer.weight.copy_(base)


@pytest.mark.parametrize("lose", [in_other_memory, another_parameter, a_plain_tensor, in_place])
def test_a_weight_that_lost_its_blocks_gets_them_before_each_use(lose: Callable) -> None:
    layer, base, expected = tuned()
    for seed in range(3):
        with torch.no_grad():
            lose(layer, base)
            y = layer(draw(seed))
        assert torch.equal(y, nn.functional.linear(draw(seed), expected, layer.bias))


def test_a_weight_in_the_same_memory_as_before_is_written_after_it_has_moved_once() -> None:
    layer, base, expected = tuned()
    gathered = base.clone()
    for seed in range(3):
        gathered.copy_(base)  # gathered again, into the same memory and without a trace
        layer.weight.data = gathered
        x = draw(seed).requires_grad_()
        y = layer(x)
        gathered.copy_(base)
        y.sum().backward()
        assert torch.equal(y, nn.functional.linear(draw(seed), expected, layer.bias))
        torch.testing.assert_close(x.grad, expected.sum(0).expand(6, 20))


def test_a_weight_that_moves_for_the_first_time_before_backward_is_noticed() -> None:
    layer, base, expected = tuned()
    x = draw().requires_grad_()
    y = layer(x)
    layer.weight.data = base.clone()
    y.sum().backward()
    torch.testing.assert_close(x.grad, expected.sum(0).expand(6, 20))


@pytest.mark.parametrize(
    "move",
    [
        lambda layer: layer.to(torch.float64),
        copy.deepcopy,
        lambda layer: layer.share_memory(),
        lambda layer: (layer.load_state_dict(layer.state_dict(), assign=True), layer)[1],
    ],
)
def test_a_layer_that_is_moved_as_a_whole_stays_the_owner_of_its_weight(move: Callable) -> None:
    layer, *_ = tuned()
    moved = move(layer)
    assert not moved._state.is_managed(moved.weight)
    assert torch.equal(moved.grid.gather(moved.weight, INDICES), moved.blocks)


def test_a_functional_call_computes_with_the_blocks_that_it_is_given() -> None:
    layer, base, expected = tuned()
    given = {"weight": base.clone(), "blocks": layer.blocks.detach().clone()}
    y = torch.func.functional_call(layer, given, (draw(),))
    assert torch.equal(y, nn.functional.linear(draw(), expected, layer.bias))


def test_an_optimizer_that_leaves_no_trace_trains() -> None:
    layer, *_ = tuned()
    losses = []
    for _ in range(4):
        loss = layer(draw()).square().mean()
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, layer.blocks)
        layer.blocks.data.add_(gradient, alpha=-0.1)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    state = layer.state_dict()
    assert torch.equal(layer.grid.gather(state["weight"], INDICES), layer.blocks)
