"""The warm-up is planned as its graph runs it: one sum a place, on which shards take turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import WarmupMemory
from smt_ray.planning.report import plan_memory
from smt_ray.reporting.text.memory import facts

SUMS = 2 * 256 * (256 + 128 + 128) * 4  # bytes of q, k and v of two layers
LARGEST = 256 * 256  # the weights of the largest linear


def planned(config: RunConfig, num_gpus: int) -> WarmupMemory:
    warmup = plan_memory(config, num_gpus).warmup
    assert warmup is not None
    return warmup


@pytest.mark.parametrize(
    ("num_shards", "num_gpus", "num_places"), [(1, 4, 1), (8, 4, 4), (8, 1, 1), (3, 4, 3)]
)
def test_shards_beyond_the_places_take_turns_and_add_into_one_sum(
    small_config: Callable[..., RunConfig], num_shards: int, num_gpus: int, num_places: int
) -> None:
    found = planned(small_config(f"warmup.num_shards={num_shards}"), num_gpus)
    assert (found.num_shards, found.num_senders) == (num_shards, num_places)
    assert found.sums == SUMS
    weights = SUMS  # float32
    assert found.traffic["gradient"] == num_places * SUMS + weights


def test_the_object_store_holds_four_modules_of_a_place(
    small_config: Callable[..., RunConfig],
) -> None:
    gradients = planned(small_config("warmup.num_shards=8"), 4)
    assert gradients.store_bytes == 4 * LARGEST * (4 + 4)  # gradients and weights
    score = planned(small_config("warmup.reduction=score", "warmup.table_block_size=32"), 4)
    assert score.store_bytes == 4 * (LARGEST // 32**2) * 4 * 8
    text = dict(facts(plan_memory(small_config("warmup.accumulate_on=host"), 4)))["host"]
    assert "in the warm-up up to 2.0 MiB of Ray's object store for each place" in text
    assert "1.0 MiB of sums" in text


def test_gpus_of_a_place_leave_fewer_places(small_config: Callable[..., RunConfig]) -> None:
    found = planned(small_config("warmup={num_shards: 8, gpus_per_shard: 2}"), 4)
    assert (found.num_senders, found.gpus_per_place) == (2, 2)
    assert found.sums == SUMS // 2


def test_a_warm_up_of_inputs_has_no_backward_pass(small_config: Callable[..., RunConfig]) -> None:
    column = "selection={block_shape: column, budget: 0.05}"
    gradients = planned(small_config(column), 1)
    inputs = planned(small_config(column, "selection.score=activation"), 1)
    assert inputs.sums == 0
    assert inputs.activations is not None
    assert gradients.activations is not None
    assert inputs.activations < gradients.activations / 4
    # The logits of a row of 64 positions, and a few copies of them, are the most that exists.
    logits = 64 * 1024 * 4
    assert 2 * logits <= inputs.activations <= 5 * logits


def test_a_warm_up_on_ranks_has_sums_on_each_and_shares_the_weights_under_zero_3(
    small_config: Callable[..., RunConfig],
) -> None:
    ranks = ("warmup={processes: ranks, accumulate_on: device}",)
    whole = planned(small_config(*ranks, "deepspeed.zero_stage=2"), 4)
    parts = planned(small_config(*ranks, "deepspeed.zero_stage=3"), 4)
    assert whole.sums == parts.sums == SUMS
    assert (whole.num_senders, whole.store_bytes) == (4, 0)
    assert whole.traffic == {"gradient": 3 * SUMS}
    assert whole.weights is not None
    # All weights of a small model may be gathered at once, and prefetched, too.
    assert parts.weights == whole.weights // 4 + 2 * whole.weights
    text = dict(facts(plan_memory(small_config(*ranks), 4)))
    assert text["warm-up"].endswith("; on 4 ranks")
    assert "total of 4 ranks" in text["traffic"]


def test_ranks_recompute_activations_if_training_does(
    small_config: Callable[..., RunConfig],
) -> None:
    ranks = ("warmup.processes=ranks", "model.architecture.num_hidden_layers=6")
    plain = planned(small_config(*ranks), 1)
    again = planned(small_config(*ranks, "training.activation_checkpointing=true"), 1)
    assert plain.activations is not None
    assert again.activations is not None
    assert again.activations < 0.8 * plain.activations
