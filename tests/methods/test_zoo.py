"""Each family of models works with each method, or the error says why it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smt_ray.config.method import DEFAULT_TARGET_MODULES, LORA_TARGET_MODULES
from smt_ray.data.batches import StepPlan, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from smt_ray.methods.full import FullMethod
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.lora_targets import find_targets
from smt_ray.methods.protocol import Method
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.controls import random_scores
from smt_ray.smt.linears import as_dense, is_transposed, linear_shapes
from smt_ray.smt.model import sparse_modules
from smt_ray.smt.selection import select_by_scores
from smt_ray.training.batching_mode import choose_mode
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.warmup.shard import stream_shard
from tests.zoo import ATTENTION, FAMILIES

BLOCK_SIZE, NUM_BLOCKS = 8, 9
ROWS = [3, 1, 20, 36, 9]
WORKING = [(family, name) for family in FAMILIES for name in ("smt", "lora", "dora", "full")]


@pytest.fixture(scope="module")
def encoded(make_encoded: Callable[..., EncodedRows]) -> EncodedRows:
    return make_encoded()


def targets_of(family: str) -> list[str]:
    return ATTENTION.get(family, list(DEFAULT_TARGET_MODULES))


def make_method(name: str, model: nn.Module, targets: list[str]) -> Method:
    if name == "full":
        return FullMethod()
    if name != "smt":
        settings = LoraSettings(
            rank=4, alpha=8, dropout=0.0, target_modules=targets, use_dora=name == "dora", seed=3
        )
        return LoraMethod(settings)
    eligible = find_eligible(model, targets)
    shapes = linear_shapes(eligible)
    return SmtMethod(
        select_by_scores(
            random_scores(shapes, BLOCK_SIZE, seed=5), block_size=BLOCK_SIZE, score="random",
            num_blocks=NUM_BLOCKS, num_base_parameters=count_parameters(model),
        )
    )  # fmt: skip


def prepared(family: str, name: str) -> tuple[Method, Any]:
    """A model that a method prepared. Both of its factors are filled, so that neither is zero."""
    model = FAMILIES[family]()
    method = make_method(name, model, targets_of(family))
    method.prepare(model)
    generator = torch.Generator().manual_seed(7)
    for n, parameter in model.named_parameters():
        if "lora_B" in n:
            parameter.data.normal_(std=0.1, generator=generator)
    return method, model


def our_loss(model: nn.Module, encoded: EncodedRows, mode: str = "padded") -> torch.Tensor:
    """The loss of a step as in training: micro-batches, and the head on targets only."""
    loss = SupervisedLoss(model, narrow=False)
    mode = choose_mode(model, mode, probe_skeleton(model), training=False).mode
    batches = step_micro_batches(encoded, ROWS, mode=mode, max_tokens=40, train_on_inputs=False)
    assert len(batches) < len(ROWS)
    return torch.stack([loss(batch) for batch in batches]).sum()


def plain_loss(model: Any, encoded: EncodedRows, rows: list[int]) -> torch.Tensor:
    """The same loss from whole logits, row by row."""
    losses = []
    for row in rows:
        ids, first = encoded.row(row).long(), int(encoded.prompt_lengths[row])
        logits = model(input_ids=ids[None]).logits[0]
        losses.append(F.cross_entropy(logits[first - 1 : -1], ids[first:], reduction="none"))
    return torch.cat(losses).mean()


def blocks_of(dense: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    size = BLOCK_SIZE
    return torch.stack(
        [dense[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in indices.tolist()]
    )


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def check_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares values of float64 models, whose losses are float32 sums."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["padded", "prefix_packed"])
@pytest.mark.parametrize(("family", "name"), WORKING)
def test_loss_and_gradient_are_those_of_whole_logits_row_by_row(
    family: str, name: str, mode: str, encoded: EncodedRows
) -> None:
    _, model = prepared(family, name)
    expected = plain_loss(model.double(), encoded, ROWS)
    parameters = dict(trained(model))
    if name == "smt":
        plain = FAMILIES[family]().double()
        plain_loss(plain, encoded, ROWS).backward()
        gradients = [
            blocks_of(plain.get_submodule(module).weight.grad, layer.indices)
            for module, layer in sparse_modules(model).items()
        ]
    else:
        gradients = list(torch.autograd.grad(expected, list(parameters.values())))
    found = our_loss(model, encoded, mode)
    found.backward()
    check_close(found.double(), expected)
    assert len(gradients) == len(parameters)
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        assert gradient.any()
        check_close(parameter.grad, gradient)


def train(method: Any, model: nn.Module, encoded: EncodedRows) -> float:
    """Trains a few steps with plain torch; returns by how much the loss fell."""
    optimizer = torch.optim.AdamW([p for _, p in trained(model)], lr=5e-3, weight_decay=0.1)
    losses = []
    for _ in range(4):
        loss = our_loss(model, encoded)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses[0] - losses[-1]


def check_changes(model: Any, before: dict[str, torch.Tensor]) -> None:
    """Checks that trained weights changed and others did not, in sparse layers by block."""
    sparse = {f"{name}.weight": layer for name, layer in sparse_modules(model).items()}
    for name, parameter in model.named_parameters():
        changed = parameter.detach() != before[name]
        if layer := sparse.get(name):
            in_blocks = blocks_of(changed, layer.indices)
            assert in_blocks.float().mean() > 0.9
            assert int(changed.sum()) == int(in_blocks.sum())
        else:
            assert bool(changed.any()) == parameter.requires_grad, name


@pytest.mark.parametrize(("family", "name"), WORKING)
def test_training_changes_only_trained_weights_and_adapter_and_merged_model_agree(
    family: str, name: str, encoded: EncodedRows, tmp_path: Path
) -> None:
    method, model = prepared(family, name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert train(method, model, encoded) > 0.01
    check_changes(model, before)
    (tmp_path / "adapter").mkdir()
    with torch.no_grad():
        tuned = plain_loss(model, encoded, ROWS)
        method.save(model, {n: p.detach().clone() for n, p in trained(model)}, tmp_path / "adapter")
        fresh, loaded = FAMILIES[family](), find_method(tmp_path / "adapter")
        base = plain_loss(fresh, encoded, ROWS)
        loaded.load(fresh, tmp_path / "adapter")
        assert torch.equal(plain_loss(fresh, encoded, ROWS), tuned)
        loaded.merge(fresh)
        merged = plain_loss(fresh, encoded, ROWS)
    torch.testing.assert_close(merged, tuned, rtol=1e-5, atol=0)
    assert abs(float(base - tuned)) > 0.01
    plain = FAMILIES[family]()
    assert [type(m) for m in fresh.modules()] == [type(m) for m in plain.modules()]
    for (n, parameter), other in zip(fresh.named_parameters(), plain.parameters(), strict=True):
        if name != "full" and n.endswith(".bias"):
            assert torch.equal(parameter, other), n


@pytest.mark.parametrize("family", FAMILIES)
def test_the_warm_up_sums_dense_gradients(family: str, encoded: EncodedRows) -> None:
    plan, model = StepPlan(len(encoded), 5, 3), FAMILIES[family]()
    found = {
        part.module: torch.tensor(part.gradient)
        for part in stream_shard(
            model, encoded, plan, range(2), modules=targets_of(family), probe=probe_skeleton(model),
            batching="prefix_packed", max_tokens=40, train_on_inputs=False,
            device=torch.device("cpu"),
        )
    }  # fmt: skip
    plain = FAMILIES[family]().double()
    for step in range(2):
        plain_loss(plain, encoded, plan.rows(step)).backward()
    assert list(found) == list(find_eligible(plain, targets_of(family)))
    for name, gradient in found.items():
        linear = plain.get_submodule(name)
        expected = as_dense(linear.weight.grad, is_transposed(linear)).float()
        assert float((gradient - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_family_are_packed_unless_its_attention_does_not_take_a_mask(
    family: str,
) -> None:
    model = FAMILIES[family]()
    chosen = choose_mode(model, "prefix_packed", probe_skeleton(model), training=False)
    assert chosen.mode == ("padded" if family == "falcon" else "prefix_packed")


def refused(find: Callable[..., Any], family: str, targets: Any) -> str:
    with pytest.raises(UserError) as caught:
        find(FAMILIES[family](), targets)
    return str(caught.value)


@pytest.mark.parametrize(
    ("find", "defaults", "field"),
    [
        (find_eligible, DEFAULT_TARGET_MODULES, "warmup.target_modules"),
        (find_targets, LORA_TARGET_MODULES, "lora.target_modules"),
    ],
)
def test_the_error_for_fused_q_k_and_v_names_the_linears_of_the_model(
    find: Callable[..., Any], defaults: tuple[str, ...], field: str
) -> None:
    assert refused(find, "phi3", defaults) == (
        f"{field}: must each match at least one module; got 'q_proj'. Fix: use module names or"
        " their last parts; there are o_proj, qkv_proj, gate_up_proj, down_proj, lm_head"
    )


@pytest.mark.parametrize("find", [find_eligible, find_targets])
def test_the_error_for_other_names_lists_gpt2s_linears(find: Callable[..., Any]) -> None:
    line = refused(find, "gpt2", DEFAULT_TARGET_MODULES)
    assert line.endswith("got 'q_proj'. Fix: use module names or their last parts; there are"
                         " c_attn, c_proj, c_fc")  # fmt: skip


def test_the_zoos_window_is_shorter_than_its_rows(encoded: EncodedRows) -> None:
    model, ids = FAMILIES["mistral"](), encoded.row(int(encoded.lengths.argmax())).long()[None]
    seen = model(input_ids=ids).logits
    model.config.sliding_window = None
    without = model(input_ids=ids).logits
    assert torch.equal(seen[:, :8], without[:, :8])
    assert not torch.allclose(seen[:, -1], without[:, -1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_the_zoo_is_the_same_every_time(family: str) -> None:
    first, second = FAMILIES[family]().state_dict(), FAMILIES[family]().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
