"""SMT trains, saves and loads the selected blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.artifacts.storage import Storage
from smt_ray.methods.adapters import find_method
from smt_ray.methods.smt import SmtMethod, SmtSettings
from smt_ray.smt.model import sparse_modules
from smt_ray.smt.selection import Selection
from tests.selections import choose

Make = Callable[..., Any]


@pytest.fixture
def selection(make_llama: Make) -> Selection:
    return choose(make_llama())


def test_exactly_the_chosen_blocks_are_trained(make_llama: Make, selection: Selection) -> None:
    model = make_llama()
    SmtMethod(selection).prepare(model)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    assert all(name.endswith(".blocks") for name in trained)
    assert sum(trained.values()) == selection.num_trainable == 6 * 64


def test_settings_name_the_selection_and_make_the_method_that_reads_it(
    make_llama: Make, selection: Selection, tmp_path: Path
) -> None:
    selection.save(tmp_path / "selection.safetensors")
    model, storage = make_llama(), Storage(str(tmp_path))
    SmtSettings("selection.safetensors").make(storage.local).prepare(model)
    counts = {name: len(layer.blocks) for name, layer in sparse_modules(model).items()}
    assert counts == {name: count for name, count in selection.counts().items() if count}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_saved_from_partitioned_parameters_and_loaded_and_merged(
    make_llama: Make, selection: Selection, tmp_path: Path, dtype: torch.dtype
) -> None:
    method, model = SmtMethod(selection), make_llama().to(dtype)
    method.prepare(model)
    generator = torch.Generator().manual_seed(0)
    tuned = {}
    for name, layer in sparse_modules(model).items():
        values = torch.randn(layer.blocks.shape, generator=generator)  # fp32, as engines keep them
        tuned[f"{name}.blocks"] = values
        layer.blocks.data.copy_(values)
    ids = torch.arange(20).view(2, 10)
    expected = model(input_ids=ids).logits
    for layer in sparse_modules(model).values():
        layer.blocks.data = torch.empty(0, dtype=dtype)  # partitioned away, as under ZeRO-3
    method.save(model, tuned, tmp_path)
    fresh = make_llama().to(dtype)
    before = fresh(input_ids=ids).logits
    loaded = find_method(tmp_path)
    loaded.load(fresh, tmp_path)
    assert torch.equal(fresh(input_ids=ids).logits, expected)
    assert not torch.equal(expected, before)
    loaded.merge(fresh)
    assert not sparse_modules(fresh)
    assert torch.equal(fresh(input_ids=ids).logits, expected)
