"""Claims about the state of a model with sparse layers, and about loading and saving it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from smt_ray.smt.layers.linear import SparseLinear
from smt_ray.smt.layers.saving import plain_state_dict
from smt_ray.smt.model import apply_selection, merge_and_unload, sparse_modules, unload
from tests.selections import choose

Make = Callable[..., Any]


def tuned(make_llama: Make, **changes: Any) -> Any:
    """A model whose last optimizer step no forward has seen."""
    model = make_llama(**changes)
    apply_selection(model, choose(model))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.arange(24).view(2, 12)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(24).view(2, 12)).logits


def test_a_state_is_current_directly_after_a_step(make_llama: Make) -> None:
    model = tuned(make_llama)
    state = copy.deepcopy(model.state_dict())
    merged = merge_and_unload(model).state_dict()
    assert all(torch.equal(state[name], value) for name, value in merged.items())


@pytest.mark.parametrize("given", [True, False])
def test_save_pretrained_writes_the_tuned_model_as_a_plain_one(
    make_llama: Make, tmp_path: Path, given: bool
) -> None:
    from transformers import AutoModelForCausalLM

    model = tuned(make_llama)
    model.save_pretrained(tmp_path, state_dict=model.state_dict() if given else None)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(loaded), logits(model))
    assert sparse_modules(model)  # which can still be trained


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_state_is_loaded_into_the_blocks(make_llama: Make, dtype: torch.dtype) -> None:
    model, other = tuned(make_llama).to(dtype), make_llama().to(dtype)
    state = plain_state_dict(copy.deepcopy(model.state_dict()))
    apply_selection(other, choose(make_llama()))
    assert not other.load_state_dict(state).missing_keys
    assert torch.equal(logits(other), logits(model))
    for name, layer in sparse_modules(other).items():
        assert torch.equal(layer.blocks, model.get_submodule(name).blocks.float())
    restored = unload(other).state_dict()
    assert all(torch.equal(restored[n], v) for n, v in make_llama().to(dtype).state_dict().items())


def test_a_state_that_was_gathered_without_the_layers_gets_its_blocks(make_llama: Make) -> None:
    model, base = tuned(make_llama), make_llama().state_dict()
    state = dict(model.state_dict())
    for name in sparse_modules(model):
        state[f"{name}.weight"] = base[f"{name}.weight"].clone()  # as ZeRO-3 gathers them
    plain = plain_state_dict(state)
    merged = merge_and_unload(model).state_dict()
    assert plain.keys() == merged.keys()
    assert all(torch.equal(plain[name], value) for name, value in merged.items())


def test_a_parameter_that_is_only_named_blocks_stays() -> None:
    state = {"mixer.blocks": torch.ones(2), "other.blocks": torch.ones(2), "other.weight": None}
    assert plain_state_dict(dict(state)) == state


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_model_saves_its_own_weights(
    make_llama: Make, tmp_path: Path, copied: Callable
) -> None:
    from transformers import AutoModelForCausalLM

    model = tuned(make_llama)
    twin = copied(model)
    with torch.no_grad():
        for layer in sparse_modules(twin).values():
            layer.blocks.zero_()
    twin.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(twin))
    assert not torch.equal(logits(loaded), logits(model))


def test_a_model_without_its_adapter_saves_as_before(make_llama: Make) -> None:
    model = tuned(make_llama)
    assert "save_pretrained" in vars(model)
    merge_and_unload(model)
    assert not any("save_pretrained" in vars(module) for module in model.modules())


def test_small_updates_of_a_bfloat16_base_are_kept_in_float32_blocks() -> None:
    torch.manual_seed(0)
    indices = torch.cartesian_prod(torch.arange(4), torch.arange(4)).int()
    moved = []
    for dtype in (None, torch.bfloat16):
        linear = nn.Linear(64, 64, bias=False, dtype=torch.bfloat16)
        layer = SparseLinear.from_linear(linear, indices, 16, dtype)
        optimizer = torch.optim.AdamW([layer.blocks], lr=1e-5, weight_decay=0)
        before = layer.blocks.detach().clone()
        for _ in range(50):
            x = torch.randn(8, 64, dtype=torch.bfloat16)
            layer(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        moved.append((layer.blocks != before).float().mean().item())
        rounded = layer.blocks.detach().to(torch.bfloat16)
        assert torch.equal(layer.grid.gather(layer.state_dict()["weight"], indices), rounded)
    wide, narrow = moved
    assert wide > 0.999
    assert narrow < 0.5


@pytest.mark.parametrize(
    ("base", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2],
)
def test_blocks_are_float32_or_the_wider_dtype_of_the_base(
    make_llama: Make, base: torch.dtype, expected: torch.dtype
) -> None:
    model = make_llama().to(base)
    apply_selection(model, choose(model))
    assert {layer.blocks.dtype for layer in sparse_modules(model).values()} == {expected}
    apply_selection(unload(model), choose(make_llama()), dtype=base)
    assert {layer.blocks.dtype for layer in sparse_modules(model).values()} == {base}
