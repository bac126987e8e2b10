"""Claims about shards and how they are added, against gradients from plain autograd."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch

from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.errors import UserError
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.scores import ScoreTable, block_statistics, step_statistics
from smt_ray.smt.selection import select_blocks
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.warmup.parts import ShardPart
from smt_ray.warmup.shard import (
    place_steps,
    reduce_module,
    shard_steps,
    stream_place,
    stream_shard,
)

TARGETS = ("q_proj", "k_proj", "v_proj")
NUM_STEPS, BLOCK_SIZE, NUM_BLOCKS = 6, 4, 12
PLAN = StepPlan(num_rows=37, batch_size=7, seed=3)

Make = Callable[..., Any]


def stream(model: Any, encoded: EncodedRows, steps: range, **changes: Any) -> list[ShardPart]:
    options: dict[str, Any] = {
        "modules": TARGETS,
        "batching": "prefix_packed",
        "probe": probe_skeleton(model),
        "max_tokens": 80,
        "train_on_inputs": False,
        "device": torch.device("cpu"),
    }
    return list(stream_shard(model, encoded, PLAN, steps, **{**options, **changes}))


def table_of(make_llama: Make, encoded: EncodedRows, num_shards: int, **changes: Any) -> ScoreTable:
    """The whole warm-up in this process: first every shard, then every reduction."""
    shards = [
        stream(
            make_llama(), encoded, shard_steps(NUM_STEPS, num_shards, shard),
            with_weights=shard == 0, **changes,
        )
        for shard in range(num_shards)
    ]  # fmt: skip
    parts = [reduce(ShardPart.plus, of_module) for of_module in zip(*shards, strict=True)]
    rows = [reduce_module(part, BLOCK_SIZE) for part in parts]
    statistics = {row.module: torch.as_tensor(row.statistics) for row in rows}
    return ScoreTable(BLOCK_SIZE, statistics, num_base_parameters=50_000, num_steps=NUM_STEPS)


def dense_gradients(model: Any, encoded: EncodedRows, steps: range) -> dict[str, torch.Tensor]:
    """The sums of the gradients of all steps, by autograd alone."""
    loss, sums = SupervisedLoss(model, narrow=False), {}
    for step in steps:
        model.zero_grad()
        for batch in step_micro_batches(
            encoded, PLAN.rows(step), mode="padded", max_tokens=1, train_on_inputs=False
        ):
            loss(batch).backward()
        for name, module in model.named_modules():
            if name.endswith(TARGETS):
                sums[name] = sums.get(name, 0) + module.weight.grad
    return sums


def relative_difference(found: ScoreTable, expected: ScoreTable) -> float:
    """The largest relative norm of a difference, over modules and statistics."""
    return max(
        float((found.statistics[name] - sums).norm(dim=(1, 2)).div(sums.norm(dim=(1, 2))).max())
        for name, sums in expected.statistics.items()
    )


def chosen(table: ScoreTable, **options: Any) -> dict[str, list[list[int]]]:
    selection = select_blocks(table, block_size=8, num_blocks=NUM_BLOCKS, **options)
    assert selection.margin is not None
    assert selection.margin > 1e-4  # so rounding cannot change the selection
    return {name: module.indices.tolist() for name, module in selection.modules.items()}


@pytest.fixture(scope="module")
def encoded(make_encoded: Callable[..., EncodedRows]) -> EncodedRows:
    return make_encoded()


@pytest.fixture(scope="module")
def one_shard(make_llama: Make, encoded: EncodedRows) -> ScoreTable:
    return table_of(make_llama, encoded, 1)


@pytest.mark.parametrize(("num_shards", "num_places"), [(1, 1), (4, 2), (5, 3), (6, 6)])
def test_every_step_is_on_one_place_in_its_shard(num_shards: int, num_places: int) -> None:
    steps = [place_steps(NUM_STEPS, num_shards, p, num_places) for p in range(num_places)]
    shards = [shard for place in steps for shard in place]
    assert sorted(step for shard in shards for step in shard) == list(range(NUM_STEPS))
    wanted = [shard_steps(NUM_STEPS, num_shards, shard) for shard in range(num_shards)]
    assert sorted(shards, key=lambda shard: shard.start) == wanted


@pytest.mark.parametrize("reduction", [None, BLOCK_SIZE])
def test_shards_that_take_turns_add_up_to_what_they_send_from_places_of_their_own(
    make_llama: Make, encoded: EncodedRows, reduction: int | None
) -> None:
    shards = place_steps(NUM_STEPS, 3, 0, 1)
    model = make_llama()
    options: dict[str, Any] = {
        "modules": TARGETS, "batching": "prefix_packed", "probe": probe_skeleton(model),
        "max_tokens": 80, "train_on_inputs": False, "device": torch.device("cpu"),
        "statistics_block_size": reduction,
    }  # fmt: skip
    found = list(stream_place(model, encoded, PLAN, shards, **options))
    alone = [
        stream(make_llama(), encoded, shard, statistics_block_size=reduction) for shard in shards
    ]
    for part, parts in zip(found, zip(*alone, strict=True), strict=True):
        expected = reduce(ShardPart.plus, parts)
        values = [p.gradient if reduction is None else p.statistics for p in (part, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("num_shards", [1, 2, 4, 5, 6])
def test_every_step_has_one_shard_and_shards_have_equal_lengths(num_shards: int) -> None:
    shares = [shard_steps(NUM_STEPS, num_shards, shard) for shard in range(num_shards)]
    assert sorted(step for share in shares for step in share) == list(range(NUM_STEPS))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_table_equals_that_of_dense_gradients(
    make_llama: Make, encoded: EncodedRows, one_shard: ScoreTable
) -> None:
    model = make_llama()
    sums = dense_gradients(model, encoded, range(NUM_STEPS))
    statistics = {
        name: block_statistics(gradient, model.get_submodule(name).weight, BLOCK_SIZE)
        for name, gradient in sums.items()
    }
    expected = ScoreTable(BLOCK_SIZE, statistics, 50_000, NUM_STEPS)
    assert list(one_shard.statistics) == list(statistics)
    assert relative_difference(one_shard, expected) < 1e-5


@pytest.mark.parametrize("num_shards", [2, 4])
@pytest.mark.parametrize("score", ["mean_of_abs", "abs_of_mean", "l2", "saliency"])
def test_more_shards_give_the_same_table_and_select_the_same_blocks(
    make_llama: Make, encoded: EncodedRows, one_shard: ScoreTable, num_shards: int, score: str
) -> None:
    table = table_of(make_llama, encoded, num_shards)
    assert relative_difference(table, one_shard) < 1e-5
    assert chosen(table, score=score) == chosen(one_shard, score=score)


def test_the_table_depends_on_neither_batching_nor_the_place_of_the_sums(
    make_llama: Make, encoded: EncodedRows, one_shard: ScoreTable
) -> None:
    table = table_of(make_llama, encoded, 1, max_tokens=1, accumulate_on="host")
    assert relative_difference(table, one_shard) < 1e-5


@pytest.mark.parametrize("num_shards", [1, 4])
@pytest.mark.parametrize("max_tokens", [80, 1])
def test_the_statistics_of_steps_are_those_of_whole_steps_and_the_others_are_unchanged(
    make_llama: Make, encoded: EncodedRows, one_shard: ScoreTable, num_shards: int, max_tokens: int
) -> None:
    model, expected = make_llama(), dict(one_shard.statistics)
    of_steps = dict.fromkeys(expected, 0)
    for step in range(NUM_STEPS):
        for name, gradient in dense_gradients(model, encoded, range(step, step + 1)).items():
            of_steps[name] = of_steps[name] + step_statistics(gradient, BLOCK_SIZE)
    whole = {name: torch.cat([sums, of_steps[name]]) for name, sums in expected.items()}
    for reduction in (None, BLOCK_SIZE):
        table = table_of(
            make_llama, encoded, num_shards, step_block_size=BLOCK_SIZE, max_tokens=max_tokens,
            statistics_block_size=reduction if num_shards == 1 else None,
        )  # fmt: skip
        found = ScoreTable(BLOCK_SIZE, whole, 50_000, NUM_STEPS)
        assert relative_difference(table, found) < 1e-5


def test_summed_statistics_are_exact_for_abs_of_mean_and_upper_bounds_otherwise(
    make_llama: Make, encoded: EncodedRows, one_shard: ScoreTable
) -> None:
    cheap = table_of(make_llama, encoded, 2, statistics_block_size=BLOCK_SIZE)
    for name, (g, g_abs, _, weighted) in one_shard.statistics.items():
        cheap_g, cheap_abs, _, cheap_weighted = cheap.statistics[name]
        torch.testing.assert_close(cheap_g, g, rtol=1e-4, atol=1e-6)
        # |a + b| <= |a| + |b|, and smaller somewhere: the statistics are an approximation.
        assert bool((cheap_abs > g_abs * (1 - 1e-6)).all())
        assert bool((cheap_weighted > weighted * (1 - 1e-6)).all())
        assert float(cheap_abs.sum()) > 1.05 * float(g_abs.sum())
    assert chosen(cheap, score="abs_of_mean") == chosen(one_shard, score="abs_of_mean")


def test_statistics_are_smaller_than_gradients(make_llama: Make, encoded: EncodedRows) -> None:
    gradients = stream(make_llama(), encoded, range(1))
    statistics = stream(make_llama(), encoded, range(1), statistics_block_size=BLOCK_SIZE)
    large = sum(part.gradient.nbytes for part in gradients)
    small = sum(part.statistics.nbytes for part in statistics)
    assert large == small * BLOCK_SIZE**2 / 8  # four float64 a block, for L^2 float32


def test_one_shard_sends_weights_and_bfloat16_weights_are_restored(
    make_llama: Make, encoded: EncodedRows
) -> None:
    model = make_llama().bfloat16()
    with_weights = stream(model, encoded, range(2), with_weights=True)
    without = stream(make_llama().bfloat16(), encoded, range(2, 4))
    assert all(isinstance(part.weight, np.ndarray) for part in with_weights)
    assert all(part.weight is None for part in without)
    for mine, theirs in zip(with_weights, without, strict=True):
        assert mine.gradient.dtype == np.float32
        total = torch.tensor(mine.gradient) + torch.tensor(theirs.gradient)
        weight = model.get_submodule(mine.module).weight
        expected = block_statistics(total, weight, BLOCK_SIZE)
        found = reduce_module(mine.plus(theirs), BLOCK_SIZE).statistics
        assert np.array_equal(theirs.plus(mine).weight, mine.weight)
        torch.testing.assert_close(torch.tensor(found), expected)


def test_a_reduction_does_not_change_its_parts(make_llama: Make, encoded: EncodedRows) -> None:
    part = stream(make_llama(), encoded, range(2), with_weights=True)[0]
    for array in (part.gradient, part.weight):
        array.setflags(write=False)  # like arrays from Ray's object store
    before, weight = part.gradient.copy(), part.weight.copy()
    found = reduce_module(part.plus(replace(part, weight=None)), BLOCK_SIZE).statistics
    np.testing.assert_array_equal(part.gradient, before)
    np.testing.assert_array_equal(part.weight, weight)
    np.testing.assert_allclose(found[1].sum(), 2 * np.abs(before.astype(np.float64)).sum())


def test_the_model_is_unchanged_afterwards(make_llama: Make, encoded: EncodedRows) -> None:
    model, before = make_llama(), make_llama()
    stream(model, encoded, range(2))
    for (name, parameter), other in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, other), name
        assert parameter.grad is None
        assert parameter.requires_grad


def test_every_step_and_its_loss_are_reported(make_llama: Make, encoded: EncodedRows) -> None:
    losses: dict[int, float] = {}
    stream(make_llama(), encoded, range(1, 6, 2), on_step=losses.__setitem__)
    assert list(losses) == [1, 3, 5]
    assert all(loss > 0 for loss in losses.values())


def test_a_loss_that_is_not_finite_names_its_step(make_llama: Make, encoded: EncodedRows) -> None:
    rows = replace(encoded, input_ids=encoded.input_ids.clone(), positions=encoded.positions + 100)
    rows.row(PLAN.rows(3)[0])[0] = 99  # a token of this row only
    model = make_llama(tie_word_embeddings=False)
    model.model.embed_tokens.weight.data[99] = float("nan")
    named = re.escape(f"(rows {[100 + row for row in PLAN.rows(3)]} of data.train)")
    with pytest.raises(UserError, match=f"the loss of step 4 must be finite {named}; got nan"):
        stream(model, rows, range(1, 6, 2))
    assert len(stream(model, rows, range(0, 6, 2))) == 6


@pytest.mark.parametrize("batching", ["padded", "prefix_packed"])
def test_a_model_with_spread_layers_has_the_same_gradients(
    make_llama: Make, encoded: EncodedRows, batching: str
) -> None:
    """Every layer has accelerate's hooks; in this test they are all on the CPU."""
    from accelerate import dispatch_model

    spread = make_llama()
    places = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    places += [f"model.layers.{i}" for i in range(len(spread.model.layers))]
    dispatch_model(spread, dict.fromkeys(places, "cpu"), main_device="cpu", force_hooks=True)
    steps = range(NUM_STEPS)
    found = stream(spread, encoded, steps, batching=batching)
    expected = stream(make_llama(), encoded, steps, batching=batching)
    assert [part.module for part in found] == [part.module for part in expected]
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own.gradient, other.gradient)
