from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.linears import dense_weight, linear_shape


def eligible(model: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in model.named_modules() if n.endswith(("q_proj", "k_proj", "v_proj"))}


def batches(tokens: Tensor) -> list[Tensor]:
    return [tokens, tokens.flip(0, 1), tokens.roll(1, 1)]


def test_sums_equal_the_sum_of_autograd_gradients(make_toy: Callable, tokens: Tensor) -> None:
    model, reference = make_toy(dtype=torch.float32), make_toy(dtype=torch.float32)
    with GradientAccumulator(model, eligible(model)) as accumulator:
        for batch in batches(tokens):
            model.loss(batch).backward()
    expected = {name: torch.zeros_like(m.weight) for name, m in eligible(reference).items()}
    for batch in batches(tokens):
        weights = [m.weight for m in eligible(reference).values()]
        gradients = torch.autograd.grad(reference.loss(batch), weights)
        for total, gradient in zip(expected.values(), gradients, strict=True):
            total += gradient
    assert accumulator.names == tuple(expected)
    for name, total in expected.items():
        assert torch.equal(accumulator.pop(name), total)


def test_sums_keep_in_fp32_what_bfloat16_would_lose() -> None:
    linear = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with GradientAccumulator(linear, {"linear": linear}) as accumulator:
        for value in [1.0] + [2**-9] * 8:  # each alone is lost beside 1.0 in bfloat16
            linear(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
    total = accumulator.pop("linear")
    assert total.dtype == torch.float32
    assert total.item() == 1 + 8 * 2**-9


def test_only_eligible_weights_get_gradients_which_are_freed_during_backward(
    make_toy: Callable, tokens: Tensor
) -> None:
    model = make_toy()
    alive_at_the_first_layer: list[int] = []

    def count(_: object) -> None:
        alive = sum(p.grad is not None for p in model.parameters())
        alive_at_the_first_layer.append(alive)

    modules = eligible(model)
    with GradientAccumulator(model, modules):
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        modules["layers.0.v_proj"].weight.register_hook(count)
        model.loss(tokens).backward()
    assert trained == {f"{name}.weight" for name in modules}
    assert alive_at_the_first_layer == [0]
    assert all(p.grad is None for p in model.parameters())


def test_requires_grad_and_gradients_are_restored_even_after_an_error(
    make_toy: Callable, tokens: Tensor
) -> None:
    model = make_toy()
    model.embed.weight.requires_grad_(False)
    model.loss(tokens).backward()
    before = {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    name = "layers.0.q_proj"
    expected = before[f"{name}.weight"][1].float()
    accumulator = GradientAccumulator(model, eligible(model))

    def fail_on_the_way() -> None:
        with accumulator:
            model.loss(tokens).backward()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_on_the_way()
    after = {n: (p.requires_grad, p.grad) for n, p in model.named_parameters()}
    assert all(after[n][0] == r and after[n][1] is g for n, (r, g) in before.items())
    # The earlier gradient was not counted, and the hooks are removed.
    assert torch.equal(accumulator.pop(name), expected)
    model.zero_grad()
    model.loss(tokens).backward()
    assert model.layers[0].q_proj.weight.grad is not None


def test_two_names_of_one_tied_weight_count_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    x = torch.randn(3, 4)
    with GradientAccumulator(model, {"0": first, "1": second}) as accumulator:
        model(x).square().sum().backward()
    (expected,) = torch.autograd.grad(model(x).square().sum(), [first.weight])
    assert accumulator.names == ("0",)
    assert torch.equal(accumulator.pop("0"), expected)


def test_pop_removes_a_sum_and_returns_zeros_for_a_weight_without_gradient() -> None:
    used, unused = nn.Linear(2, 3), nn.Linear(2, 5)
    model = nn.ModuleDict({"used": used, "unused": unused})
    with GradientAccumulator(model, dict(model.items()), device="host") as accumulator:
        used(torch.ones(1, 2)).sum().backward()
    assert torch.equal(accumulator.pop("used"), torch.ones(3, 2))
    assert torch.equal(accumulator.pop("unused"), torch.zeros(5, 2))
    assert accumulator.names == ()
    with pytest.raises(KeyError):
        accumulator.pop("used")


def test_a_weight_used_twice_or_recomputed_counts_each_use_once(
    make_toy: Callable, tokens: Tensor
) -> None:
    linear = nn.Linear(4, 4, bias=False)
    x = torch.randn(3, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(linear(linear(x)).sum(), [linear.weight])
    for reentrant in (False, True):
        with GradientAccumulator(linear, {"linear": linear}) as accumulator:
            y = torch.utils.checkpoint.checkpoint(
                lambda v: linear(linear(v)), x, use_reentrant=reentrant
            )
            y.sum().backward()
        torch.testing.assert_close(accumulator.pop("linear"), expected)


@pytest.mark.parametrize("place", [None, "host"])
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_the_gradient_of_a_quantised_weight_is_that_of_the_dequantised_one(
    quantise: Callable, kind: str, place: str | None
) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    model = quantise(dense, kind)
    linears = {name: model.get_submodule(name) for name in ("0", "2")}
    inputs = [torch.randn(2, 3, 64) for _ in range(2)]
    with GradientAccumulator(model, linears, place) as accumulator:
        for x in inputs:
            model(x).square().sum().backward()
    reference = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    reference.load_state_dict(dense.state_dict())
    with torch.no_grad():
        for name, linear in linears.items():
            reference.get_submodule(name).weight.copy_(dense_weight(linear))
    for x in inputs:
        reference(x).square().sum().backward()
    assert not any(p.requires_grad for p in linears["0"].parameters() if not p.is_floating_point())
    for name in accumulator.names:
        total, weight = accumulator.pop(name), reference.get_submodule(name).weight
        assert weight.grad is not None
        assert total.shape == weight.shape == linear_shape(linears[name])
        # int8 products of bitsandbytes round the inputs.
        limit = 0.02 if kind == "int8" else 1e-5
        assert (total - weight.grad).norm() < limit * weight.grad.norm()
    model(inputs[0])  # the hooks are gone
    assert not linears["0"]._forward_hooks
