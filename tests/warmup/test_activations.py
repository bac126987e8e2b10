"""A warm-up without gradients sums the absolute inputs of each token of each row once."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch

from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.warmup.activations import stream_activations
from smt_ray.warmup.parts import ShardPart
from smt_ray.warmup.shard import reduce_module, shard_steps

PLAN, NUM_STEPS = StepPlan(num_rows=37, batch_size=7, seed=3), 6


@pytest.fixture(scope="module")
def encoded(make_encoded: Callable[..., EncodedRows]) -> EncodedRows:
    return make_encoded()


def names(model: Any) -> list[str]:
    return [n for n, _ in model.named_modules() if n.endswith(("q_proj", "down_proj"))]


def stream(model: Any, encoded: EncodedRows, steps: range, **options: Any) -> list[Any]:
    return list(
        stream_activations(
            model, encoded, PLAN, steps, modules=names(model), train_on_inputs=False,
            device=torch.device("cpu"), **options,
        )
    )  # fmt: skip


@pytest.mark.parametrize("num_shards", [1, 4])
def test_the_sums_are_those_of_the_inputs_of_every_row(
    make_llama: Callable[..., Any], encoded: EncodedRows, num_shards: int
) -> None:
    model = make_llama().eval()
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names(model)}
    for name, found in seen.items():
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, x, found=found: found.append(x[0]))
    for step in range(NUM_STEPS):
        for row in PLAN.rows(step):
            model(input_ids=encoded.row(row).long()[None, :-1])
    shards = [
        stream(make_llama(), encoded, shard_steps(NUM_STEPS, num_shards, shard))
        for shard in range(num_shards)
    ]
    for parts in zip(*shards, strict=True):
        found = torch.tensor(reduce_module(reduce(ShardPart.plus, parts), 8).statistics)
        expected = torch.cat([x[0] for x in seen[parts[0].module]]).abs().double().sum(0)
        torch.testing.assert_close(found, expected[None], rtol=1e-5, atol=1e-9)


def test_the_losses_are_those_of_the_steps_and_the_model_is_unchanged(
    make_llama: Callable[..., Any], encoded: EncodedRows
) -> None:
    from smt_ray.data.batches import step_micro_batches

    losses: dict[int, float] = {}
    model = make_llama()
    stream(model, encoded, range(2), on_step=losses.__setitem__)
    assert not any(module._forward_pre_hooks for module in model.modules())
    loss = SupervisedLoss(make_llama().eval(), narrow=False)
    for step in range(2):
        batches = step_micro_batches(
            encoded, PLAN.rows(step), mode="padded", max_tokens=1, train_on_inputs=False
        )
        expected = float(sum(loss(batch) for batch in batches).detach())
        assert losses[step] == pytest.approx(expected, rel=1e-5)
