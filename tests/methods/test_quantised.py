"""Claims about methods on a quantised base: the adapter, its counts, and where it is merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.protocol import Method
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.load import load_model
from tests.selections import choose

TINY = ModelConfig(builtin="tiny")
IDS = torch.arange(3, 43).view(2, 20)


def load(kind: str = "none") -> Any:
    return load_model(TINY.model_copy(update={"quantization": kind}))


def make(method: str) -> Method:
    if method == "smt":
        return SmtMethod(choose(load(), num_blocks=20))
    return LoraMethod(LoraSettings(4, 8, 0.0, ("q_proj", "up_proj"), method == "dora", seed=0))


def train(model: nn.Module) -> Mapping[str, Tensor]:
    """Trains a few steps; the trained parameters by name."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(list(trained.values()), lr=1e-2)
    for _ in range(3):
        loss = model(input_ids=IDS, labels=IDS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in trained.items()}


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("method", ["smt", "lora", "dora"])
def test_an_adapter_is_trained_saved_loaded_and_merged_in_full_precision(
    method: str, kind: str, tmp_path: Path
) -> None:
    trained, model = make(method), load(kind)
    trained.prepare(model)
    counts, plain = trained.count(model), load()
    reference = make(method)
    reference.prepare(plain)
    assert counts == reference.count(plain)
    parameters = train(model)
    assert all(p.dtype == torch.float32 for p in parameters.values())
    with torch.no_grad():
        expected, untuned = model(IDS).logits, load(kind)(IDS).logits
    assert (expected - untuned).abs().max() > 0.1
    trained.save(model, parameters, tmp_path)

    again = load(kind)
    find_method(tmp_path).load(again, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, expected)
    assert not any(p.requires_grad for p in again.parameters())

    whole, merging = load(), find_method(tmp_path)
    merging.load(whole, tmp_path)
    merging.merge(whole)
    assert whole.state_dict().keys() == load().state_dict().keys()
    with torch.no_grad():
        base, tuned = load()(IDS).logits, whole(IDS).logits
    # What was learned moves the full-precision model in the same direction.
    moved, wanted = (tuned - base).flatten(), (expected - untuned).flatten()
    assert torch.cosine_similarity(moved, wanted, dim=0) > 0.9


def test_smt_begins_with_the_dequantised_blocks_and_trains_what_the_selection_says(
    make_llama: Callable,
) -> None:
    model = load("nf4")
    make("smt").prepare(model)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, load("nf4")(IDS).logits)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.endswith(".smt_delta.default.blocks") for name in trained)


def test_an_adapter_of_a_full_precision_base_is_put_on_a_quantised_one(tmp_path: Path) -> None:
    method, model = make("smt"), load()
    method.prepare(model)
    method.save(model, train(model), tmp_path)
    quantised = load("int8")
    find_method(tmp_path).load(quantised, tmp_path)
    tuned = load()
    find_method(tmp_path).load(tuned, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(quantised(IDS).logits, tuned(IDS).logits, rtol=0, atol=0.5)


@pytest.mark.parametrize("method", ["smt", "lora"])
def test_another_base_of_the_same_architecture_is_refused_in_any_precision(
    method: str, tmp_path: Path
) -> None:
    trained, model = make(method), load("nf4")
    trained.prepare(model)
    parameters = train(model)
    (tmp_path / "adapter").mkdir()
    trained.save(model, parameters, tmp_path / "adapter")
    other = load()
    for name, parameter in other.named_parameters():
        if "q_proj" in name:
            parameter.data += 0.01
    other.save_pretrained(tmp_path / "other")
    for kind in ("none", "nf4", "fp4", "int8"):
        find_method(tmp_path / "adapter").load(load(kind), tmp_path / "adapter")
        spec = ModelConfig(path=str(tmp_path / "other"), quantization=kind)
        with pytest.raises(UserError, match="must be loaded on the base model"):
            find_method(tmp_path / "adapter").load(load_model(spec), tmp_path / "adapter")
