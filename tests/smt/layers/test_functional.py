from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.functional import SparseLinearFunction
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.layout import BlockLayout

GRID = BlockGrid(12, 20, 4)
INDICES = torch.tensor([[0, 1], [0, 4], [1, 1], [2, 0]])  # shares a row, and a column
LAYOUT = BlockLayout.from_indices(GRID, INDICES)


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run(
    x: Tensor, weight: Tensor, bias: Tensor | None, blocks: Tensor, save_input: bool = False
) -> Tensor:
    kept = KeptInput(20, 4, range(5) if save_input else LAYOUT.cols)
    starts = [kept.start(col) for col in LAYOUT.cols]
    return SparseLinearFunction.apply(
        x, weight, bias, blocks, INDICES, LAYOUT, partial(kept.of, x), starts, False
    )


@pytest.mark.parametrize("save_input", [False, True])
def test_gradients_pass_gradcheck_against_finite_differences(save_input: bool) -> None:
    base, x, bias = draw(12, 20), draw(5, 20, seed=1), draw(12, seed=2)

    def rebuilt(x: Tensor, bias: Tensor, blocks: Tensor) -> Tensor:
        weight = base.clone()
        GRID.scatter_(weight, INDICES, blocks.detach())
        return run(x, weight, bias, blocks, save_input)

    inputs = [t.requires_grad_() for t in (x, bias, GRID.gather(base, INDICES))]
    assert torch.autograd.gradcheck(rebuilt, inputs)


@pytest.mark.parametrize("save_input", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)],
)
def test_block_gradient_equals_dense_gradient_slice(
    dtype: torch.dtype, tolerance: float, save_input: bool
) -> None:
    # The order of the sum over tokens may depend on the shape of the product, so the results may
    # differ by rounding: 1e-12 in float64.
    x, weight = draw(33, 20, dtype=dtype), draw(12, 20, dtype=dtype, seed=1)
    grad_y = draw(33, 12, dtype=dtype, seed=2)
    dense_x, dense_weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    torch.nn.functional.linear(dense_x, dense_weight).backward(grad_y)
    x.requires_grad_()
    blocks = GRID.gather(weight, INDICES).requires_grad_()
    run(x, weight, None, blocks, save_input).backward(grad_y)
    expected = GRID.gather(dense_weight.grad, INDICES)
    torch.testing.assert_close(blocks.grad, expected, rtol=tolerance, atol=tolerance)
    assert blocks.grad.dtype == dtype
    assert torch.equal(x.grad, dense_x.grad)  # the very same product


@pytest.mark.parametrize("wanted", ["x", "blocks"])
def test_only_the_gradients_that_are_needed_are_computed(wanted: str) -> None:
    x, weight = draw(5, 20), draw(12, 20, seed=1)
    blocks = GRID.gather(weight, INDICES)
    (x if wanted == "x" else blocks).requires_grad_()
    y = run(x, weight, None, blocks)
    grad_x, *_, grad_bias, grad_blocks = (
        y.grad_fn.apply(torch.ones_like(y))[i] for i in (0, 1, 2, 3)
    )
    assert grad_bias is None
    assert (grad_x is not None, grad_blocks is not None) == (wanted == "x", wanted == "blocks")


def test_no_tokens_give_zero_gradients() -> None:
    weight = draw(12, 20)
    blocks = GRID.gather(weight, INDICES).requires_grad_()
    y = run(draw(0, 20), weight, None, blocks)
    assert y.shape == (0, 12)
    y.sum().backward()
    assert torch.equal(blocks.grad, torch.zeros(4, 4, 4, dtype=torch.float64))


def test_a_second_derivative_is_an_error() -> None:
    x, weight = draw(5, 20).requires_grad_(), draw(12, 20, seed=1)
    y = run(x, weight, None, GRID.gather(weight, INDICES).requires_grad_())
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("indices", [[[0, 0], [0, 0]], [[3, 0]], [[0, -1]]])
def test_repeated_blocks_and_blocks_outside_the_grid_are_errors(indices: list[list[int]]) -> None:
    with pytest.raises(AssertionError):
        BlockLayout.from_indices(GRID, torch.tensor(indices))
