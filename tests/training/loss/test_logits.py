"""Claims about logits in chunks: the loss and its gradient are those of all logits at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smt_ray.data.batches import MicroBatch, step_micro_batches
from smt_ray.planning.live_bytes import LiveBytes
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.batching_mode import choose_mode
from smt_ray.training.loss.logits import MAX_LOGITS
from smt_ray.training.loss.supervised import SupervisedLoss
from tests.training.models import tiny

Make = Callable[..., Any]

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen3": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 3.0},
    "mixtral": {"num_local_experts": 4},
    "gpt2": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
}


def step(model: Any, batch: MicroBatch, **options: Any) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of all parameters."""
    loss = SupervisedLoss(model, **options)
    value = loss(batch)
    value.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    loss.detach_from_model()
    return value.item(), gradient


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_those_of_all_logits(
    make_encoded: Make, name: str, narrow: bool, is_frozen: bool
) -> None:
    model = tiny(name, **FAMILIES[name])
    model.get_output_embeddings().requires_grad_(not is_frozen)
    mode = choose_mode(model, "padded", probe_skeleton(model), training=False)
    assert mode.max_logits == MAX_LOGITS
    (batch,) = step_micro_batches(
        make_encoded(), [3, 1, 20], mode="padded", max_tokens=500, train_on_inputs=True
    )
    narrow = narrow and mode.narrows
    expected, gradient = step(model, batch, narrow=narrow)
    for positions in (1, 7):
        loss, found = step(model, batch, narrow=narrow, max_logits=positions * 100 + 50)
        assert loss == pytest.approx(expected, rel=1e-6)  # the sum is in float32
        assert float((found - gradient).norm() / gradient.norm()) < 1e-5


def test_the_head_never_gets_more_positions_than_a_chunk(make_encoded: Make) -> None:
    model, sizes = tiny("llama"), []
    model.lm_head.register_forward_hook(lambda *args: sizes.append(args[-1].shape[1]))
    (batch,) = step_micro_batches(
        make_encoded(), [3, 1], mode="padded", max_tokens=500, train_on_inputs=True
    )
    loss = SupervisedLoss(model, narrow=False, max_logits=500)
    with torch.no_grad():
        value = loss(batch)
    assert max(sizes) == 5
    assert sum(sizes) == len(batch.positions) + 1, "the model's own forward has one position"
    loss.detach_from_model()
    torch.testing.assert_close(value, SupervisedLoss(model, narrow=False)(batch).detach())


@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_memory_for_logits_does_not_grow_with_the_row(is_frozen: bool) -> None:
    model, peaks = tiny("llama", vocab_size=4000), {}
    model.lm_head.requires_grad_(not is_frozen)
    for length in (256, 512):
        ids, targets = torch.zeros(1, length, dtype=torch.int64), torch.arange(length)
        batch = MicroBatch(ids, targets, targets, torch.ones(length))
        for max_logits in (None, 128_000):
            loss = SupervisedLoss(model, narrow=False, max_logits=max_logits)
            with LiveBytes() as live:
                loss(batch).backward()
            peaks[length, max_logits] = live.peak
            model.zero_grad()
            loss.detach_from_model()
    whole, chunked = (peaks[512, most] - peaks[256, most] for most in (None, 128_000))
    assert whole > 256 * 4000 * (4 + 4), "logits and their gradient"
    assert chunked < whole / 4


def test_a_frozen_head_computes_each_logit_once(make_encoded: Make) -> None:
    model, sizes = tiny("llama"), []
    model.lm_head.register_forward_hook(lambda *args: sizes.append(args[-1].shape[1]))
    (batch,) = step_micro_batches(
        make_encoded(), [3, 1], mode="padded", max_tokens=500, train_on_inputs=True
    )
    for is_frozen, times in ((True, 1), (False, 2)):
        model.lm_head.requires_grad_(not is_frozen)
        sizes.clear()
        SupervisedLoss(model, narrow=False, max_logits=500)(batch).backward()
        assert sum(sizes) == times * len(batch.positions) + 1


def test_few_logits_are_computed_at_once(make_encoded: Make) -> None:
    model, sizes = tiny("llama"), []
    model.lm_head.register_forward_hook(lambda *args: sizes.append(args[-1].shape[1]))
    (batch,) = step_micro_batches(
        make_encoded(), [3, 1], mode="padded", max_tokens=500, train_on_inputs=True
    )
    SupervisedLoss(model, narrow=False, max_logits=MAX_LOGITS)(batch)
    assert sizes == [len(batch.positions)]
