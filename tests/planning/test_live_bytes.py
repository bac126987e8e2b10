"""The live bytes are those of the tensors that autograd must keep."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from smt_ray.planning.live_bytes import LiveBytes

KIB = 1024
NUM_TOKENS, WIDTH = 64, 32
ACTIVATION = NUM_TOKENS * WIDTH * 4
WEIGHT = WIDTH * WIDTH * 4


class Doubled(torch.autograd.Function):
    """Saves a tensor that nothing else refers to, and makes another in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(torch.ones_like(x))
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (ones,) = ctx.saved_tensors
        return torch.mul(grad, ones) * 2


def linears(number: int) -> list[nn.Linear]:
    return [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(number)]


def measured(work: Callable[[], Any]) -> LiveBytes:
    with LiveBytes() as live:
        work()
    return live


def test_a_storage_counts_once_and_as_long_as_it_lives() -> None:
    with LiveBytes() as live:
        x = torch.empty(KIB, dtype=torch.uint8)
        assert live.now == KIB
        view = x.view(32, 32)[3:]
        assert live.now == KIB
        del x
        assert live.now == KIB
        del view
        assert live.now == 0
    assert live.peak == KIB


def test_views_of_an_earlier_storage_cost_nothing_and_its_end_is_subtracted() -> None:
    before = [torch.zeros(KIB, dtype=torch.uint8)]
    with LiveBytes() as live:
        before[0].view(2, -1).add_(1)
        assert live.now == 0
        before.clear()
        assert live.now == -KIB
    assert live.peak == 0


def test_garbage_from_before_changes_nothing() -> None:
    cycle: list[Any] = [torch.zeros(KIB, dtype=torch.uint8)]
    cycle.append(cycle)
    del cycle
    with LiveBytes() as live:
        gc.collect()
        assert live.now == 0


def test_tensors_on_the_meta_device_hold_nothing() -> None:
    with LiveBytes() as live:
        held = torch.zeros(KIB, device="meta")
        assert live.now == 0 < held.numel()


def test_tensors_from_python_values_and_resized_tensors_count() -> None:
    with LiveBytes() as live:
        x = torch.tensor([1.0] * KIB)
        assert live.now == 4 * KIB
        x.resize_(2 * KIB)
        assert live.now == 8 * KIB


def test_a_trained_linear_keeps_its_input_and_a_frozen_one_does_not() -> None:
    layers = linears(4)
    for trained, kept in ((True, 4), (False, 0)):
        for layer in layers:
            layer.requires_grad_(trained)
        x = torch.randn(NUM_TOKENS, WIDTH, requires_grad=True)
        with LiveBytes() as live:
            y = x * 2.0  # the first input, which nothing else refers to
            for layer in layers:
                y = layer(y)
            assert live.now == (kept + 1) * ACTIVATION  # and the last output
        del x, y


def test_the_backward_pass_is_seen() -> None:
    (layer,) = linears(1)
    x = torch.randn(NUM_TOKENS, WIDTH, requires_grad=True)
    with LiveBytes() as live:
        layer(x).sum().backward()
        assert x.grad is not None
        assert live.now == ACTIVATION + WEIGHT  # both gradients
    # The output is freed by then, and the gradient of the sum is a view of four bytes.
    assert live.peak == pytest.approx(ACTIVATION + WEIGHT, abs=64)


def test_a_custom_function_is_seen_in_forward_and_backward() -> None:
    x = torch.randn(NUM_TOKENS, WIDTH, requires_grad=True)
    with LiveBytes() as live:
        y = Doubled.apply(x)
        assert live.now == 2 * ACTIVATION
        live.reset_peak()
        y.backward(torch.ones_like(y))
        # y, the saved tensor, the given gradient, their product and its double.
        assert live.peak == 5 * ACTIVATION
        del y
        assert live.now == ACTIVATION


def test_checkpointing_keeps_only_the_inputs_of_its_parts() -> None:
    layers = [nn.Sequential(*linears(4), nn.Tanh()) for _ in range(8)]
    x = torch.randn(NUM_TOKENS, WIDTH)

    def run(checkpointed: bool) -> int:
        with LiveBytes() as live:
            y = x
            for layer in layers:
                y = checkpoint(layer, y, use_reentrant=False) if checkpointed else layer(y)
            return live.now

    assert run(False) == 8 * 4 * ACTIVATION
    assert run(True) == 8 * ACTIVATION


def test_a_run_on_fake_tensors_has_the_peak_of_the_real_one() -> None:
    def work() -> None:
        model = nn.Sequential(*linears(3), nn.GELU(), nn.LayerNorm(WIDTH))
        x = torch.zeros(NUM_TOKENS, WIDTH)
        optimizer = torch.optim.AdamW(model.parameters())
        model(x).pow(2).sum().backward()
        optimizer.step()

    real = measured(work)
    with FakeTensorMode():
        fake = measured(work)
    assert fake.peak == real.peak > 0
