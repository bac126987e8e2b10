"""Claims about gradient sums of one rank, against autograd; test_trained.py has two ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.models.inspect import find_eligible
from smt_ray.smt.linears import dense_weight
from smt_ray.smt.scores import block_statistics
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.warmup.gradient_sums import GradientSums
from tests.zoo import FAMILIES

TARGETS = ("q_proj", "v_proj")
NUM_STEPS = 3


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Training:
    """Gradient descent, and the sums of its gradients."""

    def __init__(self, model: Any, encoded: EncodedRows) -> None:
        self.loss, self.encoded = SupervisedLoss(model, narrow=False), encoded
        self.weights = {n: m.weight for n, m in find_eligible(model, TARGETS).items()}
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.seen: dict[str, Any] = {}

    def step(self, step: int) -> None:
        """Does one step, with one row in each micro-batch."""
        rows = StepPlan(len(self.encoded), 7, 3).rows(step)
        for batch in step_micro_batches(
            self.encoded, rows, mode="padded", max_tokens=1, train_on_inputs=False
        ):
            self.loss(batch).backward()
        for name, weight in self.weights.items():
            self.seen[name] = self.seen.get(name, 0) + weight.grad
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_sums(model: Any, accumulate_on: str = "device") -> GradientSums:
    return GradientSums(find_eligible(model, TARGETS), accumulate_on, torch.device("cpu"))


@pytest.mark.parametrize("accumulate_on", ["device", "host"])
def test_the_sums_are_those_of_all_steps_while_weights_change(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows], accumulate_on: str
) -> None:
    model = make_llama()
    sums, training = make_sums(model, accumulate_on), Training(model, make_encoded())
    for step in range(NUM_STEPS):
        training.step(step)
    exported = sums.export(keep=True)
    assert exported.keys() == training.seen.keys()
    for name, total in exported.items():
        torch.testing.assert_close(total, training.seen[name], rtol=1e-5, atol=1e-7)
        moved = (make_llama().get_submodule(name).weight - training.weights[name]).detach()
        assert float(moved.abs().max()) > 1e-3


def test_exported_sums_can_be_restored_and_a_rank_need_not_keep_them(
    make_llama: Callable[..., Any], make_encoded: Callable[..., EncodedRows]
) -> None:
    model = make_llama()
    training, sums = Training(model, make_encoded()), make_sums(model)
    training.step(0)
    half = sums.export(keep=True)
    before = {name: total.clone() for name, total in half.items()}
    assert sums.export(keep=False) == {}
    training.step(1)
    sums.restore(half)
    other = make_sums(model)
    other.restore(half)
    training.step(2)
    whole, restored = sums.export(keep=True), other.export(keep=True)
    for name, total in whole.items():
        assert torch.equal(half[name], before[name])  # later steps do not write into exported sums
        assert torch.equal(restored[name], total)
        assert not torch.equal(total, half[name])


def test_the_statistics_are_those_of_the_sums_and_the_weights(
    make_llama: Callable[..., Any],
) -> None:
    model = make_llama()
    names = list(find_eligible(model, TARGETS))
    sums = {name: torch.randn_like(model.get_submodule(name).weight) for name in names}
    found = make_sums(model).statistics(sums, dict(model.named_parameters()), 4)
    assert list(found) == names
    for name, statistics in found.items():
        weight = model.get_submodule(name).weight
        assert torch.equal(statistics, block_statistics(sums[name], weight, 4))


def test_gpt2s_sums_and_statistics_are_those_of_dense_weights() -> None:
    model, ids = FAMILIES["gpt2"](), torch.arange(24).view(2, 12)
    linears = find_eligible(model, ["c_attn", "c_proj"])  # attention's c_proj is square
    sums = GradientSums(linears, "host", torch.device("cpu"))
    model(input_ids=ids, labels=ids).loss.backward()
    exported = sums.export(keep=True)
    found = sums.statistics(exported, dict(model.named_parameters()), 8)
    assert list(found) == list(linears)
    for name, linear in linears.items():
        gradient = linear.get_parameter("weight").grad.t()
        torch.testing.assert_close(exported[name], gradient)
        expected = block_statistics(gradient, dense_weight(linear), 8)
        torch.testing.assert_close(found[name], expected)
