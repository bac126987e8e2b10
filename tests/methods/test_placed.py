"""Selected elements (SIFT) and columns are trained, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from smt_ray.methods.placed import PlacedMethod, PlacedSettings
from smt_ray.places.adapter import FILES
from smt_ray.places.model import placed_modules
from smt_ray.places.selection import PlaceSelection
from smt_ray.smt.tensorfile import read_tensors, write_tensors
from tests.selections import choose_columns, choose_elements

Make = Callable[..., Any]
KIND = "adapter of elements or columns"


@pytest.fixture(params=[choose_elements, choose_columns], ids=["elements", "columns"])
def selection(make_llama: Make, request: pytest.FixtureRequest) -> PlaceSelection:
    return request.param(make_llama())


def test_exactly_the_chosen_values_are_trained(
    make_llama: Make, selection: PlaceSelection, tmp_path: Path
) -> None:
    selection.save(tmp_path / "selection.safetensors")
    model, storage = make_llama(), Storage(str(tmp_path))
    method = PlacedSettings("selection.safetensors").make(storage.local)
    num_base = sum(p.numel() for p in model.parameters())
    method.prepare(model)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert all(name.endswith(".blocks") for name in trained)
    assert sum(trained.values()) == selection.num_trainable
    assert abs(selection.num_trainable - 300) < 32  # a column
    counts = method.count(model)
    assert (counts.num_trainable, counts.num_base) == (selection.num_trainable, num_base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_saved_from_partitioned_parameters_and_loaded_and_merged(
    make_llama: Make, selection: PlaceSelection, tmp_path: Path, dtype: torch.dtype
) -> None:
    method, model = PlacedMethod(selection), make_llama().to(dtype)
    method.prepare(model)
    tuned = {}
    for name, layer in placed_modules(model).items():
        values = torch.randn(layer.blocks.shape, generator=torch.Generator().manual_seed(0))
        tuned[f"{name}.blocks"] = values
        layer.blocks.data.copy_(values)
    ids = torch.arange(20).view(2, 10)
    expected = model(input_ids=ids).logits
    for layer in placed_modules(model).values():
        layer.blocks.data = torch.empty(0)  # partitioned away, as under ZeRO-3
    method.save(model, tuned, tmp_path)
    fresh = make_llama().to(dtype)
    before = fresh(input_ids=ids).logits
    loaded = find_method(tmp_path)
    loaded.load(fresh, tmp_path)
    assert not any(p.requires_grad for p in fresh.parameters())
    assert torch.equal(fresh(input_ids=ids).logits, expected)
    assert not torch.equal(expected, before)
    loaded.merge(fresh)
    assert not placed_modules(fresh)
    assert torch.equal(fresh(input_ids=ids).logits, expected)


@pytest.fixture
def saved(make_llama: Make, selection: PlaceSelection, tmp_path: Path) -> Path:
    method, model = PlacedMethod(selection), make_llama()
    method.prepare(model)
    values = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    method.save(model, values, tmp_path)
    return tmp_path


def test_another_base_model_is_refused(make_llama: Make, saved: Path) -> None:
    other = make_llama()
    other.model.layers[0].self_attn.q_proj.weight.data += 1
    for model in (other, make_llama(num_hidden_layers=1)):
        with pytest.raises(UserError, match="must be loaded on the base model"):
            find_method(saved).load(model, saved)


@pytest.mark.parametrize("change", ["range", "order", "values", "cut", "other"])
def test_a_damaged_adapter_is_refused(
    make_llama: Make, selection: PlaceSelection, saved: Path, change: str
) -> None:
    path = saved / FILES[selection.kind]
    tensors, header = read_tensors(path, KIND)
    name = next(iter(header["modules"]))
    if change == "range":
        tensors[f"{name}.places"][-1] = 10**6
    elif change == "order":
        tensors[f"{name}.places"] = tensors[f"{name}.places"].flip(0)
    elif change == "values":
        tensors[f"{name}.values"] = tensors[f"{name}.values"][:-1]
    write_tensors(path, KIND, tensors, header)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    if change == "other":
        save_file(load_file(path), path)
    with pytest.raises(UserError, match=r"must be a (whole and unedited )?adapter of elements"):
        find_method(saved).load(make_llama(), saved)
