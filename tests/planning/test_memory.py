"""What DeepSpeed partitions over the ranks at each ZeRO stage."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.planning.memory import RankBytes, rank_bytes

BASE, TRAINED = 10_000_000_000, 80_000


def rank(stage: int, num_gpus: int, dtype_bytes: int = 2, **changes: Any) -> RankBytes:
    values: dict[str, Any] = {"num_parameters": BASE, "num_trainable": TRAINED, "bucket": TRAINED}
    return rank_bytes(stage, num_gpus, bytes_per_value=dtype_bytes, **{**values, **changes})


@pytest.mark.parametrize("dtype_bytes", [2, 4])
def test_stages_partition_the_optimizer_then_gradients_then_weights(dtype_bytes: int) -> None:
    alone = [rank(stage, 1, dtype_bytes) for stage in range(4)]
    four = [rank(stage, 4, dtype_bytes) for stage in range(4)]
    shared = {
        name: [getattr(alone[stage], name) == 4 * getattr(four[stage], name) for stage in range(4)]
        for name in ("optimizer", "gradients", "weights")
    }
    assert shared == {
        "optimizer": [False, True, True, True],
        "gradients": [False, False, True, True],
        "weights": [False, False, False, True],
    }


def test_bf16_has_fp32_master_copies_and_unpartitioned_fp32_has_none() -> None:
    assert rank(0, 1, 2).optimizer == 12 * TRAINED
    assert rank(0, 1, 4).optimizer == 8 * TRAINED
    assert rank(2, 1, 4).optimizer == 12 * TRAINED


def test_deepspeed_limits_the_gathered_weights() -> None:
    gathered = rank(3, 2).buffers - rank(2, 2).buffers
    assert gathered == 2 * (1_000_000_000 + 50_000_000)
    few = rank(3, 2, num_parameters=1000, num_trainable=10, bucket=10).buffers
    assert few == 2 * (10 + 1000 + 1000)


def test_a_peak_is_the_highest_of_backward_reduction_and_step() -> None:
    parts = RankBytes(weights=100, gradients=10, optimizer=5, buffers=3, reduction=20, step=30)
    assert parts.peak(activations=50) == 115 + 53
    assert parts.peak(activations=1) == 115 + 30
