"""Full fine-tuning trains, saves and loads every weight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from smt_ray.methods.full import TENSORS_FILE, FullMethod
from smt_ray.smt.tensorfile import share_file

Make = Callable[..., Any]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(20).view(2, 10)).logits
    return found


def save_tuned(model: Any, directory: Path) -> torch.Tensor:
    """Tunes a model and saves it; returns the logits of the tuned model."""
    method = FullMethod()
    method.prepare(model)
    generator, values = torch.Generator().manual_seed(1), {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        values[name] = parameter.detach().float() + 0.05 * noise
        parameter.data.copy_(values[name])
    expected = logits(model)
    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)  # partitioned away
    method.save(model, values, directory)
    return expected


def test_everything_is_trained_tied_weights_once(make_llama: Make) -> None:
    model = make_llama()
    model.requires_grad_(False)
    FullMethod().prepare(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    summary = FullMethod().count(model).summary()
    assert summary.num_trainable == summary.num_base == model.num_parameters()
    assert summary.percent_of_base == summary.percent_of_total == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_tuned_weights_are_saved_and_loaded_and_merged(
    make_llama: Make, tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    before = logits(make_llama(tie_word_embeddings=tied).to(dtype))
    expected = save_tuned(make_llama(tie_word_embeddings=tied).to(dtype), tmp_path)
    assert {t.dtype for t in load_file(tmp_path / TENSORS_FILE).values()} == {dtype}
    fresh, method = make_llama(tie_word_embeddings=tied).to(dtype), find_method(tmp_path)
    method.load(fresh, tmp_path)
    assert torch.equal(logits(fresh), expected)
    assert not torch.equal(expected, before)
    method.merge(fresh)
    assert torch.equal(logits(fresh), expected)


def test_shares_of_several_ranks_are_one_adapter(make_llama: Make, tmp_path: Path) -> None:
    model, method = make_llama(), FullMethod()
    method.prepare(model)
    values = {name: p.detach().float() + 0.05 for name, p in model.named_parameters()}
    names = list(values)
    for share in (0, 1):
        method.save(model, {name: values[name] for name in names[share::2]}, tmp_path)
        (tmp_path / TENSORS_FILE).rename(tmp_path / share_file("tuned_model", share, 2))
    fresh, found = make_llama(), find_method(tmp_path)
    found.load(fresh, tmp_path)
    assert all(torch.equal(p, values[name]) for name, p in fresh.named_parameters())
    (tmp_path / share_file("tuned_model", 1, 2)).unlink()
    with pytest.raises(UserError, match="must hold exactly the parameters"):
        found.load(make_llama(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "what"), [({"seed": 1}, "weight"), ({"num_hidden_layers": 1}, "config")]
)
def test_another_base_is_refused_and_left_as_it_was(
    make_llama: Make, tmp_path: Path, changes: dict[str, int], what: str
) -> None:
    save_tuned(make_llama(), tmp_path)
    model = make_llama(**changes)
    before = logits(model)
    with pytest.raises(UserError, match=f"base model it was trained on; the {what} differs"):
        find_method(tmp_path).load(model, tmp_path)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("damage", ["truncated", "missing a tensor", "record"])
def test_a_damaged_adapter_is_refused(make_llama: Make, tmp_path: Path, damage: str) -> None:
    save_tuned(make_llama(), tmp_path)
    file, tensors = tmp_path / TENSORS_FILE, load_file(tmp_path / TENSORS_FILE)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "missing a tensor":
        save_file(dict(list(tensors.items())[1:]), file)
    else:
        (tmp_path / "base_model.json").write_text("{")
    with pytest.raises(UserError) as caught:
        find_method(tmp_path).load(make_llama(), tmp_path)
    assert str(tmp_path) in caught.value.field
