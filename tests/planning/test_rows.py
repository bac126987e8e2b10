"""The statistics of rows are compared with actual micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.planning.rows import PlannedRows

MAX_TOKENS = 60


@pytest.mark.parametrize("mode", ["padded", "packed", "prefix_packed"])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_no_micro_batch_is_larger_than_the_statistics_say(
    make_encoded: Callable[..., EncodedRows],
    small_config: Callable[..., RunConfig],
    mode: str,
    num_ranks: int,
) -> None:
    encoded = make_encoded()
    config = small_config(f"batching.max_tokens={MAX_TOKENS}", "data.train_on_inputs=false")
    seen = PlannedRows(config, encoded).statistics(mode, num_ranks)
    plan = StepPlan(len(encoded), config.training.batch_size, config.seed)
    batches = [
        batch
        for step in range(plan.steps_per_epoch)
        for rank in range(num_ranks)
        for batch in step_micro_batches(
            encoded,
            plan.rows(step),
            mode=mode,
            max_tokens=MAX_TOKENS,
            train_on_inputs=False,
            rank=rank,
            num_ranks=num_ranks,
        )
    ]
    assert max(batch.input_ids.numel() for batch in batches) <= seen.largest(MAX_TOKENS)
    shares = [len(batch.positions) / batch.input_ids.numel() for batch in batches]
    assert max(shares) == pytest.approx(seen.target_share)


def test_without_rows_every_row_has_the_largest_length(
    small_config: Callable[..., RunConfig],
) -> None:
    sizes = ("data.max_length=100", "training.batch_size=6")
    config = small_config(*sizes, "data.train_on_inputs=false")
    rows = PlannedRows(config, None).statistics("packed", 4)
    assert (rows.row_length, rows.step_tokens, rows.target_share) == (99, 2 * 99, 0.5)
    assert rows.largest(150) == 150
    assert rows.largest(4096) == 198
    assert rows.largest(10) == 99  # a longer row has a micro-batch of its own
    with_prompts = PlannedRows(small_config(*sizes, "data.train_on_inputs=true"), None)
    assert with_prompts.statistics("padded", 1).target_share == 1
