"""Counted FLOPs are compared with arithmetic by hand and with those of a published trainer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from smt_ray.config.run import RunConfig
from smt_ray.planning.activations import BatchShape, DryRun
from smt_ray.planning.flops import Flops
from smt_ray.planning.prepared import prepare_model
from smt_ray.training.batching_mode import BatchingMode

LLAMA_3_8B = (
    "model.architecture.vocab_size=128256", "model.architecture.hidden_size=4096",
    "model.architecture.intermediate_size=14336", "model.architecture.num_hidden_layers=32",
    "model.architecture.num_attention_heads=32", "model.architecture.num_key_value_heads=8",
    "model.architecture.tie_word_embeddings=false", "model.dtype=bfloat16",
)  # fmt: skip


def counted(work: Callable[[], object]) -> int:
    with Flops() as flops:
        work()
    return flops.total


def test_a_frozen_linear_needs_two_products_and_a_trained_one_three() -> None:
    x, weight = torch.ones(5, 7, requires_grad=True), torch.ones(11, 7)
    assert counted(lambda: F.linear(x, weight).sum().backward()) == 2 * 2 * 5 * 7 * 11
    weight.requires_grad_(True)
    assert counted(lambda: F.linear(x, weight).sum().backward()) == 3 * 2 * 5 * 7 * 11


def test_causal_attention_counts_the_pairs_that_its_mask_allows() -> None:
    q, k, v = torch.ones(3, 1, 4, 6, 16)
    run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    assert counted(lambda: run(q, k, v, 0.0, True)) == 2 * 2 * 4 * 21 * 16
    assert counted(lambda: run(q, k, v, 0.0, False)) == 2 * 2 * 4 * 36 * 16


def step_flops(config: RunConfig, length: int, *, checkpointing: bool = False) -> int:
    run = DryRun(prepare_model(config).model, BatchingMode("packed", max_logits=2**25))
    shape = BatchShape(1, length, length, True)
    return run.measure(shape, training=True, checkpointing=checkpointing).flops


def test_full_fine_tuning_needs_the_flops_that_torchtitan_counts(
    small_config: Callable[..., RunConfig],
) -> None:
    """Torchtitan reports 345.02 TFLOP/s at 5,957 tokens/s for Llama 3 8B and rows of 8,192 tokens.

    That is 6 FLOPs for each parameter but those of the embeddings, and attention over all pairs
    (https://github.com/pytorch/torchtitan/pull/996). Half of the pairs are masked. Our head is
    trained, so its logits in chunks are computed once more in the backward pass.
    """
    length, width, layers = 8192, 4096, 32
    published = 345.02e12 / 5957
    masked_pairs = 6 * layers * length * width
    logits_again = 2 * 128256 * 4096
    attention_again = 2 * layers * length * width // 2  # flash attention recomputes the scores
    found = step_flops(small_config(*LLAMA_3_8B, "method=full"), length) / length
    expected = published - masked_pairs + logits_again + attention_again
    assert found == pytest.approx(expected, rel=0.01)


def test_smt_computes_no_gradient_of_frozen_weights(
    small_config: Callable[..., RunConfig],
) -> None:
    """Two products of each weight, and one for each trained value.

    A recomputed layer stops before its last product, whose result no gradient needs.
    """
    smt = (*LLAMA_3_8B, "selection={budget: 0.0084, block_size: 256}")
    config, length = small_config(*smt), 256
    dense = 2 * length * (6_979_321_856 + 128256 * 4096)
    kept = step_flops(config, length)
    assert kept == pytest.approx(2 * dense, rel=0.03)
    recomputed = step_flops(config, length, checkpointing=True)
    not_again = 128256 * 4096 + 32 * 14336 * 4096  # the head, and the last linear of each layer
    assert recomputed - kept == pytest.approx(dense - 2 * length * not_again, rel=0.02)
