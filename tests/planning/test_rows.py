"""The statistics of rows are compared with actual micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.encoding import EncodedRows
from smt_ray.planning.rows import assumed_rows, seen_rows

MAX_TOKENS = 60


@pytest.mark.parametrize("mode", ["padded", "packed", "prefix_packed"])
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_no_micro_batch_is_larger_than_the_statistics_say(
    make_encoded: Callable[..., EncodedRows], mode: str, num_ranks: int
) -> None:
    encoded = make_encoded()
    plan = StepPlan(len(encoded), 8, 0)
    steps = range(plan.steps_per_epoch)
    options = {"mode": mode, "max_tokens": MAX_TOKENS, "train_on_inputs": False}
    seen = seen_rows(encoded, plan, steps, num_ranks, **options)  # type: ignore[arg-type]
    batches = [
        batch
        for step in steps
        for rank in range(num_ranks)
        for batch in step_micro_batches(
            encoded,
            plan.rows(step),
            rank=rank,
            num_ranks=num_ranks,
            **options,  # type: ignore[arg-type]
        )
    ]
    assert max(batch.input_ids.numel() for batch in batches) <= seen.largest(MAX_TOKENS)
    shares = [len(batch.positions) / batch.input_ids.numel() for batch in batches]
    assert max(shares) == pytest.approx(seen.target_share)


def test_without_rows_every_row_has_the_largest_length() -> None:
    rows = assumed_rows(100, 6, 4, mode="packed", train_on_inputs=False)
    assert (rows.row_length, rows.step_tokens, rows.target_share) == (99, 2 * 99, 0.5)
    assert rows.largest(150) == 150
    assert rows.largest(4096) == 198
    assert rows.largest(10) == 99  # a longer row has a micro-batch of its own
    assert assumed_rows(100, 6, 1, mode="padded", train_on_inputs=True).target_share == 1
