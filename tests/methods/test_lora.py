"""LoRA and DoRA train what peft trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.methods.lora_targets import find_targets
from smt_ray.smt.linears import linear_shapes
from smt_ray.training.loss.supervised import SupervisedLoss
from tests.methods.lora import TARGETS, Make, logits, make_method, tuned

# Layers of make_llama: q 32 x 32, k and v 16 x 32, up and down 64 x 32 and 32 x 64.
INS_AND_OUTS = 2 * (64 + 48 + 48 + 96 + 96)
OUTS = 2 * (32 + 16 + 16 + 64 + 32)


def test_exactly_the_factors_are_trained_and_both_percentages_are_known(
    name: str, make_llama: Make
) -> None:
    model = make_llama()
    base = sum(p.numel() for p in model.parameters())
    method = make_method(name)
    method.prepare(model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in n for n in trained)
    expected = 4 * INS_AND_OUTS + (OUTS if name == "dora" else 0)
    summary = method.count(model).summary()
    assert (summary.num_trainable, summary.num_base) == (expected, base)
    assert summary.percent_of_base == pytest.approx(100 * expected / base)
    assert summary.percent_of_total == pytest.approx(100 * expected / (base + expected))


def test_the_counts_are_those_that_peft_prints(name: str, make_llama: Make) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=TARGETS, use_dora=name == "dora")
    trained, total = get_peft_model(make_llama(), config).get_nb_trainable_parameters()
    method, model = make_method(name), make_llama()
    method.prepare(model)
    counts = method.count(model)
    assert (counts.num_trainable, counts.num_total) == (trained, total)


def test_an_untrained_adapter_changes_nothing_and_dropout_is_active_only_in_training(
    name: str, make_llama: Make
) -> None:
    model = make_llama()
    before, method = logits(model), make_method(name)
    method.prepare(model)
    torch.testing.assert_close(logits(model), before)
    tuned(method, model)
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_the_seed_determines_the_factors_and_the_global_generator_is_not_used(
    name: str, make_llama: Make
) -> None:
    def begin(seed: int, noise: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        model = make_llama()
        torch.manual_seed(noise)
        make_method(name, seed=seed).prepare(model)
        state = torch.random.get_rng_state()
        return {n: p for n, p in model.named_parameters() if p.requires_grad}, state

    (a, state), (b, _), (c, _) = begin(3, 1), begin(3, 2), begin(4, 1)
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not all(torch.equal(a[n], c[n]) for n in a)


def test_gradients_through_our_batches_equal_pefts_on_whole_logits(
    name: str, make_llama: Make, make_encoded: Callable[..., EncodedRows]
) -> None:
    from peft import LoraConfig, get_peft_model

    method, ours, rows = make_method(name), make_llama(), [3, 1, 20, 36, 9]
    method.prepare(ours)
    initial = tuned(method, ours)
    encoded, loss = make_encoded(), SupervisedLoss(ours.double(), narrow=False)
    for batch in step_micro_batches(
        encoded, rows, mode="padded", max_tokens=40, train_on_inputs=False
    ):
        loss(batch).backward()
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.3, target_modules=TARGETS, use_dora=name == "dora",
    )  # fmt: skip
    theirs: Any = get_peft_model(make_llama(), config).eval()
    theirs.load_state_dict({f"base_model.model.{n}": p for n, p in initial.items()}, strict=False)
    theirs.double()
    total, num_targets = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        ids, first = encoded.row(row).long(), int(encoded.prompt_lengths[row])
        found = theirs(input_ids=ids[None]).logits[0]
        total = total + F.cross_entropy(found[first - 1 : -1], ids[first:], reduction="sum")
        num_targets += len(ids) - first
    (total / num_targets).backward()
    compared = {n: p.grad for n, p in ours.named_parameters() if p.requires_grad}
    assert compared.keys() == initial.keys()
    for parameter, gradient in compared.items():
        expected = theirs.get_parameter(f"base_model.model.{parameter}").grad
        # Losses are float32 sums.
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_an_untied_head_may_be_adapted_and_sees_only_supervised_positions(
    name: str, make_llama: Make, make_encoded: Callable[..., EncodedRows]
) -> None:
    model, encoded, shapes = make_llama(tie_word_embeddings=False), make_encoded(), []
    method = make_method(name, target_modules=["lm_head"])
    method.prepare(model)
    model.lm_head.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    (batch,) = step_micro_batches(
        encoded, [0, 1], mode="padded", max_tokens=80, train_on_inputs=False
    )
    SupervisedLoss(model, narrow=False)(batch).backward()
    assert shapes == [(1, int(encoded.num_targets(False)[:2].sum()), 100)]


def test_gpt2s_conv1d_is_adapted_as_a_transposed_linear(name: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    shapes = linear_shapes(find_targets(model, ["c_attn"]))
    assert set(shapes.values()) == {(96, 32)}
    base = sum(p.numel() for p in model.parameters())
    method = make_method(name, target_modules=["c_attn"])
    method.prepare(model)
    expected = 2 * (4 * (96 + 32) + (96 if name == "dora" else 0))
    assert (method.count(model).num_trainable, method.count(model).num_base) == (expected, base)
    tuned(method, model)
    before = logits(model)
    method.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
