"""The adapters of LoRA and DoRA are peft's files, and fit their base model only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from tests.methods.lora import TARGETS, Make, logits, make_method, tuned


@pytest.fixture
def adapter(name: str, make_llama: Make, tmp_path: Path) -> Path:
    """A tuned adapter of make_llama's model."""
    method, model, folder = make_method(name), make_llama(), tmp_path / "adapter"
    method.prepare(model)
    folder.mkdir()
    method.save(model, tuned(method, model), folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_is_saved_from_partitioned_parameters_and_loaded_and_merged(
    name: str, make_llama: Make, tmp_path: Path, dtype: torch.dtype
) -> None:
    method, model = make_method(name), make_llama().to(dtype)
    before = logits(model)
    method.prepare(model)
    values = tuned(method, model)
    expected = logits(model)
    for parameter in model.parameters():
        parameter.data = torch.empty(0, dtype=dtype)  # partitioned away, as under ZeRO-3
    method.save(model, values, tmp_path)
    fresh, loaded = make_llama().to(dtype), find_method(tmp_path)
    loaded.load(fresh, tmp_path)
    assert torch.equal(logits(fresh), expected)
    assert not any(parameter.requires_grad for parameter in fresh.parameters())
    loaded.merge(fresh)
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits(fresh), expected, rtol=0, atol=near)
    assert (expected - before).abs().max() > 10 * near
    assert [n for n, _ in fresh.named_parameters()] == [
        n for n, _ in make_llama().named_parameters()
    ]


def test_a_merged_model_is_saved_as_a_plain_one(
    adapter: Path, make_llama: Make, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, method = make_llama(), find_method(adapter)
    method.load(model, adapter)
    method.merge(model)
    model.save_pretrained(tmp_path / "merged")
    assert not any("adapter" in file.name for file in (tmp_path / "merged").iterdir())
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(logits(alone), logits(model))


def test_peft_alone_loads_the_adapter(adapter: Path, make_llama: Make) -> None:
    from peft import PeftModel

    ours = make_llama()
    find_method(adapter).load(ours, adapter)
    theirs = PeftModel.from_pretrained(make_llama(), str(adapter))
    assert torch.equal(logits(theirs), logits(ours))


def test_an_adapter_that_peft_wrote_is_loaded(name: str, make_llama: Make, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=".*v_proj", use_dora=name == "dora")
    theirs = get_peft_model(make_llama(), config).eval()
    tuned(None, theirs)
    theirs.save_pretrained(str(tmp_path), save_embedding_layers=False)
    ours = make_llama()
    find_method(tmp_path).load(ours, tmp_path)
    assert torch.equal(logits(ours), logits(theirs))


def test_equal_adapters_are_equal_bytes_and_name_their_base(
    name: str, make_llama: Make, tmp_path: Path
) -> None:
    make_llama().save_pretrained(tmp_path / "base")
    folders = []
    for targets in (TARGETS, TARGETS[::-1]):
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        method = make_method(name, target_modules=targets)
        method.prepare(model)
        folders.append(tmp_path / f"adapter-{len(folders)}")
        folders[-1].mkdir()
        method.save(model, tuned(method, model), folders[-1])
    a, b = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert a == b
    assert json.loads(a["adapter_config.json"])["base_model_name_or_path"] == str(tmp_path / "base")
    assert json.loads(a["base_model.json"])["name_or_path"] == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "weight"),
        ({"intermediate_size": 96}, "config"),
        ({"num_hidden_layers": 3}, "config"),
    ],
)
def test_another_base_is_refused_and_left_as_it_was(
    adapter: Path, make_llama: Make, changes: dict[str, int], what: str
) -> None:
    model = make_llama(**changes)
    before = logits(model)
    with pytest.raises(UserError, match=f"base model it was trained on; the {what} differs"):
        find_method(adapter).load(model, adapter)
    assert torch.equal(logits(model), before)
    assert not any("lora" in n for n, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"intermediate_size": 96}, "size mismatch"),
        ({"num_hidden_layers": 3}, "model.layers.2.self_attn.q_proj.lora_A"),
        ({"num_hidden_layers": 1}, "model.layers.1."),
        (None, "not found in the base model"),
    ],
)
def test_an_adapter_without_a_record_must_fit_the_model_too(
    adapter: Path, make_llama: Make, changes: dict[str, int] | None, what: str
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    (adapter / "base_model.json").unlink()
    if changes is None:
        config = GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=32)
        model: Any = GPT2LMHeadModel(config).eval()
    else:
        model = make_llama(**changes)
    before = logits(model)
    with pytest.raises(UserError, match="must fit the model that it is put on") as caught:
        find_method(adapter).load(model, adapter)
    assert what in caught.value.got
    assert torch.equal(logits(model), before)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_the_same_base_in_another_dtype_is_accepted(adapter: Path, make_llama: Make) -> None:
    find_method(adapter).load(make_llama().bfloat16(), adapter)


@pytest.mark.parametrize("damage", ["truncated", "missing a tensor", "of another size"])
def test_a_damaged_adapter_is_refused_and_the_model_left_plain(
    adapter: Path, make_llama: Make, damage: str
) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "missing a tensor":
        save_file({n: t for n, t in tensors.items() if n != first}, file)
    else:
        save_file({**tensors, first: torch.ones(3, 3)}, file)
    model = make_llama()
    with pytest.raises(UserError) as caught:
        find_method(adapter).load(model, adapter)
    assert str(adapter) in caught.value.field
    assert "\n" not in str(caught.value)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_an_adapter_of_another_kind_is_refused(make_llama: Make, tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model

    config = IA3Config(target_modules=["v_proj"], feedforward_modules=[])
    get_peft_model(make_llama(), config).save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(UserError, match="LoRA adapter's config"):
        find_method(tmp_path).load(make_llama(), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="must be an adapter's folder"):
        find_method(tmp_path)
