"""Claims about sparse layers under torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smt_ray.smt.layers.linear import SparseLinear
from smt_ray.smt.model import apply_selection, sparse_modules

INDICES = torch.tensor([[0, 1], [1, 1], [1, 4], [2, 0]], dtype=torch.int32)


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def compiled(layer: nn.Module, backend: str = "aot_eager") -> Any:
    return torch.compile(layer, backend=backend, fullgraph=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_full_graph_gives_the_outputs_and_gradients_of_the_layer(
    dtype: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = SparseLinear.from_linear(nn.Linear(20, 12, bias=bias, dtype=dtype), INDICES, 4)
    results = []
    for run in (layer, compiled(layer)):
        x = draw(2, 7, 20, dtype=dtype).requires_grad_()
        y = run(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, layer.blocks.grad))
        layer.blocks.grad = None
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager)


def test_a_compiled_model_trains_as_the_model_does(
    make_toy: Callable, choose: Callable, train: Callable, tokens: Tensor
) -> None:
    eager, model = (make_toy(dtype=torch.float64) for _ in range(2))
    for each in (eager, model):
        apply_selection(each, choose(each))
    expected = train(eager, tokens)
    model.forward = compiled(model.forward)
    assert train(model, tokens) == pytest.approx(expected, rel=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), eager(tokens))


def test_no_step_compiles_again_and_a_graph_sees_every_change() -> None:
    torch.manual_seed(0)
    layer = SparseLinear.from_linear(nn.Linear(20, 12), INDICES, 4)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    run = torch.compile(layer, backend=counter, fullgraph=True)
    optimizer = torch.optim.AdamW([layer.blocks], lr=0.1, fused=True)
    x = draw(6, 20)
    for _ in range(4):
        loss = run(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        dense = layer.weight.detach().clone()
        layer.grid.scatter_(dense, layer.indices, layer.blocks.detach())
        y = run(x)
        torch.testing.assert_close(y, nn.functional.linear(x, dense, layer.bias))
    assert counter.frame_count == 1


def test_two_forwards_may_come_before_one_backward_in_a_graph() -> None:
    torch.manual_seed(0)
    layer = SparseLinear.from_linear(nn.Linear(20, 12), INDICES, 4)
    gradients = []
    for run in (layer, compiled(layer)):
        (run(draw(6, 20)).square().sum() + run(draw(6, 20, seed=4)).square().sum()).backward()
        gradients.append(layer.blocks.grad)
        layer.blocks.grad = None
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_weight_that_lost_its_blocks_before_backward_gets_them_again() -> None:
    torch.manual_seed(0)
    layer = SparseLinear.from_linear(nn.Linear(20, 12), INDICES, 4)
    base = layer.weight.detach().clone()
    with torch.no_grad():
        layer.blocks.mul_(2)
    gradients = []
    for run in (layer, compiled(layer)):
        x = draw(6, 20).requires_grad_()
        y = run(x)
        if run is not layer:
            layer.weight.data.copy_(base)  # gathered again
        y.square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_autocast_in_a_graph_gives_the_gradients_of_the_layer() -> None:
    torch.manual_seed(0)
    layer = SparseLinear.from_linear(nn.Linear(20, 12), INDICES, 4)
    results = []
    for run in (layer, compiled(layer)):
        x = draw(6, 20).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = run(x)
        y.float().square().sum().backward()
        results.append((y.detach(), x.grad, layer.blocks.grad))
        layer.blocks.grad = None
    for eager, graph in zip(*results, strict=True):
        assert graph.dtype == eager.dtype
        torch.testing.assert_close(graph, eager, rtol=1e-2, atol=1e-2)


def test_the_operators_satisfy_torchs_own_checks() -> None:
    layer = SparseLinear.from_linear(nn.Linear(20, 12), INDICES, 4)
    x, kept = draw(6, 20).requires_grad_(), draw(6, 12)
    arguments = (
        x, layer.weight, layer.bias, layer.blocks, layer.indices, kept,
        [0, 1, 1, 2], [4, 4, 8, 0], 4, False,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.smt_ray.linear.default, arguments)
    torch.library.opcheck(
        torch.ops.smt_ray.block_gradients.default,
        (draw(6, 12), kept, [0, 1, 1, 2], [4, 4, 8, 0], 4, False),
    )


@pytest.mark.slow
def test_a_llama_compiles_by_inductor_as_one_graph(make_llama: Callable[..., Any]) -> None:
    from tests.selections import choose

    model = make_llama()
    apply_selection(model, choose(model))
    assert len(sparse_modules(model)) > 1
    twin = copy.deepcopy(model)
    ids = torch.arange(24).view(2, 12)
    run = torch.compile(model, fullgraph=True)
    for call in (run, twin):
        call(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for name, layer in sparse_modules(model).items():
        expected = twin.get_submodule(name).blocks.grad
        torch.testing.assert_close(layer.blocks.grad, expected, rtol=1e-4, atol=1e-6)
