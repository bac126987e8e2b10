"""Claims about the delta form: it equals a dense weight that holds the blocks, also compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.delta import BlockDelta
from smt_ray.smt.layers.kept_input import KeptInput

OUT, IN, SIZE = 12, 8, 4
INDICES = torch.tensor([[0, 0], [0, 1], [2, 1]])  # two share rows, two share columns


@pytest.fixture
def make() -> Callable[..., tuple[nn.Linear, BlockDelta, Tensor]]:
    """Makes a frozen linear, a delta with random blocks, and the dense weight of both."""

    def make(
        dtype: torch.dtype = torch.float64, blocks: torch.dtype | None = None, bias: bool = True
    ) -> tuple[nn.Linear, BlockDelta, Tensor]:
        torch.manual_seed(0)
        linear = nn.Linear(IN, OUT, bias=bias, dtype=dtype).requires_grad_(False)
        grid = BlockGrid(OUT, IN, SIZE)
        delta = BlockDelta(grid.gather(linear.weight, INDICES), INDICES, (OUT, IN), blocks)
        with torch.no_grad():
            delta.blocks.add_(torch.randn_like(delta.blocks))
        dense = linear.weight.detach().to(delta.blocks.dtype, copy=True)
        grid.scatter_(dense, INDICES, delta.blocks.detach())
        return linear, delta, dense.requires_grad_()

    return make


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 1, 3)], ids=str)
def test_output_and_gradients_are_those_of_the_dense_weight(
    make: Callable, bias: bool, shape: tuple[int, ...], compiled: bool
) -> None:
    linear, delta, dense = make(bias=bias)

    def tuned(x: Tensor) -> Tensor:
        return delta(x, linear(x))

    call = torch.compile(tuned, fullgraph=True, backend="aot_eager") if compiled else tuned
    x = torch.randn(*shape, IN, dtype=torch.float64, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    y, expected = call(x), F.linear(same, dense, linear.bias)
    torch.testing.assert_close(y, expected)
    grad_y = torch.randn_like(y)
    y.backward(grad_y)
    expected.backward(grad_y)
    torch.testing.assert_close(x.grad, same.grad)
    grad = BlockGrid(OUT, IN, SIZE).gather(dense.grad, INDICES)
    torch.testing.assert_close(delta.blocks.grad, grad)


def test_gradcheck(make: Callable) -> None:
    linear, delta, _ = make()

    def tuned(x: Tensor, blocks: Tensor) -> Tensor:
        return torch.func.functional_call(delta, {"blocks": blocks}, (x, linear(x)))

    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tuned, (x, delta.blocks.detach().requires_grad_()))


def test_untrained_blocks_change_nothing_bit_for_bit() -> None:
    linear = nn.Linear(IN, OUT)
    base = BlockGrid(OUT, IN, SIZE).gather(linear.weight, INDICES)
    delta, x = BlockDelta(base, INDICES, (OUT, IN)), torch.randn(3, IN)
    assert torch.equal(delta(x, linear(x)), linear(x))


@pytest.mark.parametrize("base", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_blocks_are_at_least_float32_and_the_output_has_the_dtype_of_the_linear(
    make: Callable, base: torch.dtype
) -> None:
    linear, delta, dense = make(base)
    assert delta.blocks.dtype == torch.promote_types(base, torch.float32)
    x = torch.randn(3, IN, dtype=base, requires_grad=True)
    y = delta(x, linear(x))
    assert y.dtype == base
    y.sum().backward()
    assert (x.grad.dtype, delta.blocks.grad.dtype) == (base, delta.blocks.dtype)
    exact = F.linear(x.to(dense.dtype), dense, linear.bias.to(dense.dtype))
    assert (y - exact).abs().max() < 8 * torch.finfo(base).eps * exact.abs().max()


def test_the_blocks_may_have_another_dtype(make: Callable) -> None:
    _, delta, _ = make(torch.float32, torch.bfloat16)
    assert delta.blocks.dtype == torch.bfloat16


def test_it_works_under_autocast(make: Callable) -> None:
    linear, delta, dense = make(torch.float32)
    x = torch.randn(3, IN, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = delta(x, linear(x))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad.dtype == delta.blocks.grad.dtype == torch.float32
    torch.testing.assert_close(x.grad, dense.detach().sum(0).expand(3, -1), atol=0.05, rtol=0.05)


def test_frozen_blocks_keep_no_input(make: Callable) -> None:
    linear, delta, dense = make()
    delta.requires_grad_(False)
    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)
    delta(x, linear(x)).sum().backward()
    torch.testing.assert_close(x.grad, dense.detach().sum(0).expand(3, -1))
    assert delta.blocks.grad is None


def test_layers_with_the_same_input_keep_its_columns_once(make: Callable) -> None:
    (linear, one, _), (_, two, _) = make(), make()
    shared = KeptInput(IN, SIZE, [0, 1])
    shared.columns = (0, 1)  # copies, as if the input were wider than the columns
    for delta in (one, two):
        delta.share_input(shared)
    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = [delta(x, linear(x)) for delta in (one, two)]
    assert len(kept) > len(set(kept))
    sum(y.sum() for y in outputs).backward()
    assert torch.equal(one.blocks.grad, two.blocks.grad)


def test_a_state_of_other_places_is_refused(make: Callable) -> None:
    _, delta, _ = make()
    state = delta.state_dict()
    assert set(state) == {"blocks", "indices"}
    delta.load_state_dict(state)
    state["indices"] = state["indices"].flip(0)
    with pytest.raises(RuntimeError, match="another selection of blocks"):
        delta.load_state_dict(state)
