"""Claims about the rows of a step and its micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
import torch

from smt_ray.data.batches import StepPlan, collate, plan_micro_batches, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows

LENGTHS = torch.randint(5, 60, (37,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.mark.parametrize(("num_rows", "batch_size"), [(12, 4), (13, 4), (3, 8), (1, 1)])
def test_every_epoch_has_each_row_exactly_once(num_rows: int, batch_size: int) -> None:
    plan = StepPlan(num_rows, batch_size, seed=0)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.rows(step) for step in steps]
        assert sorted(chain.from_iterable(batches)) == list(range(num_rows))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert batches[-1]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return StepPlan(50, 50, seed).rows(epoch)

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(each) for each in orders}) == 9
    assert orders == [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert order(0, 0) != list(range(50))


def test_the_rows_of_a_step_do_not_depend_on_earlier_calls() -> None:
    plan = StepPlan(10, 3, seed=1)
    there = [plan.rows(step) for step in range(40)]
    assert [plan.rows(step) for step in reversed(range(40))] == there[::-1]


def test_the_number_of_steps_comes_from_epochs_or_max_steps() -> None:
    plan = StepPlan(10, 3, seed=0)
    assert plan.num_steps(2, None) == 8
    assert plan.num_steps(None, 5) == 5


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("max_tokens", [1, 60, 64, 200, 10_000])
@pytest.mark.parametrize("num_rows", [1, 2, 16, 37])
def test_micro_batches_hold_every_row_once_and_ranks_have_equally_many(
    num_rows: int, max_tokens: int, num_ranks: int
) -> None:
    lengths = LENGTHS[:num_rows]
    plan = plan_micro_batches(lengths, max_tokens=max_tokens, num_ranks=num_ranks)
    assert len(plan) == num_ranks
    assert len({len(of_rank) for of_rank in plan}) == 1
    micro_batches = [rows for of_rank in plan for rows in of_rank]
    assert sorted(chain.from_iterable(micro_batches)) == list(range(num_rows))
    for rows in micro_batches:
        padded = len(rows) * max((lengths[row] for row in rows), default=0)
        assert padded <= max_tokens or len(rows) == 1


def test_empty_micro_batches_come_last_and_a_single_rank_has_none() -> None:
    assert all(rows for rows in plan_micro_batches(LENGTHS, max_tokens=100, num_ranks=1)[0])
    plan = plan_micro_batches([9, 8, 7], max_tokens=1, num_ranks=2)
    assert plan == [[[0], []], [[1], [2]]]


def test_ranks_get_similar_numbers_of_tokens() -> None:
    plan = plan_micro_batches(LENGTHS, max_tokens=100, num_ranks=4)
    tokens = [sum(LENGTHS[row] for rows in of_rank for row in rows) for of_rank in plan]
    assert max(tokens) - min(tokens) <= max(LENGTHS)


def test_a_larger_limit_makes_fewer_micro_batches() -> None:
    sizes = [
        len(plan_micro_batches(LENGTHS, max_tokens=max_tokens, num_ranks=1)[0])
        for max_tokens in (1, 100, 400, 10_000)
    ]
    assert sizes[0] == len(LENGTHS)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


@pytest.mark.parametrize("train_on_inputs", [False, True])
def test_the_triples_predict_exactly_the_supervised_tokens(
    make_encoded: Callable[..., EncodedRows], train_on_inputs: bool
) -> None:
    encoded, rows = make_encoded(), [4, 0, 31, 7]
    batch = collate(encoded, rows, token_weight=0.25, train_on_inputs=train_on_inputs)
    width = batch.input_ids.shape[1]
    assert batch.input_ids.shape == (4, int(encoded.lengths[rows].max()))
    found = [
        (position // width, position % width, target)
        for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True)
    ]
    expected = [
        (place, index - 1, token)
        for place, row in enumerate(rows)
        for index, token in enumerate(encoded.row(row).tolist())
        if index >= (1 if train_on_inputs else int(encoded.prompt_lengths[row]))
    ]
    assert found == expected
    assert batch.weights.tolist() == [0.25] * len(expected)
    for place, row in enumerate(rows):
        ids = encoded.row(row).tolist()
        assert batch.input_ids[place].tolist() == ids + [0] * (width - len(ids))


def test_a_micro_batch_without_rows_has_zero_weight(
    make_encoded: Callable[..., EncodedRows],
) -> None:
    batch = collate(make_encoded(), [], token_weight=1.0, train_on_inputs=False)
    assert batch.input_ids.shape == (1, 1)
    assert batch.weights.tolist() == [0.0]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [1, 64, 4096])
def test_the_weights_of_a_step_average_to_one_over_ranks(
    make_encoded: Callable[..., EncodedRows], num_ranks: int, max_tokens: int
) -> None:
    encoded, rows = make_encoded(), [5, 6, 7, 20, 1]
    ranks = [
        step_micro_batches(
            encoded,
            rows,
            mode="padded",
            max_tokens=max_tokens,
            train_on_inputs=False,
            rank=r,
            num_ranks=num_ranks,
        )
        for r in range(num_ranks)
    ]
    assert len({len(of_rank) for of_rank in ranks}) == 1
    weights = torch.cat([batch.weights for of_rank in ranks for batch in of_rank]).double()
    assert float(weights.sum()) / num_ranks == pytest.approx(1.0, rel=1e-6)
    assert len(weights[weights > 0].unique()) == 1


def test_all_tensors_of_a_batch_move_to_a_device(make_encoded: Callable[..., EncodedRows]) -> None:
    batch = collate(make_encoded(), [0], token_weight=1.0, train_on_inputs=False).to("meta")
    for field in ("input_ids", "positions", "targets", "weights"):
        assert getattr(batch, field).device.type == "meta"
