"""Claims about peft's calls on a model with the tuner: each does what peft says that it does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.peft import SmtConfig, SmtLayer
from smt_ray.smt.adapter import load_adapter, save_adapter
from smt_ray.smt.model import apply_selection, merge_and_unload, sparse_modules
from tests.selections import choose

Batch = dict[str, Tensor]


def logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch).logits
    return found


def states(model: nn.Module, other: nn.Module) -> bool:
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_only_the_blocks_are_trained_as_in_place(
    load: Callable, make_config: Callable, train: Callable
) -> None:
    model = get_peft_model(load(), make_config())
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(name.endswith("smt_delta.default.blocks") for name in trained)
    assert model.get_nb_trainable_parameters()[0] == 6 * 8 * 8
    losses = train(model, 5)
    in_place = load()
    apply_selection(in_place, choose(in_place))
    assert losses == pytest.approx(train(in_place, 5), rel=1e-6)
    assert losses[-1] < losses[0]
    layers = sparse_modules(in_place)
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, SmtLayer):
            torch.testing.assert_close(module.smt_delta["default"].blocks, layers[name].blocks)


def test_a_saved_adapter_is_loaded_bit_for_bit(
    tuned: Any, load: Callable, batch: Batch, tmp_path: Path
) -> None:
    tuned.save_pretrained(tmp_path)
    expected = logits(tuned, batch)
    for model in (
        PeftModel.from_pretrained(load(), tmp_path),
        PeftModel.from_pretrained(load(), tmp_path, low_cpu_mem_usage=True),
        AutoPeftModelForCausalLM.from_pretrained(tmp_path),
    ):
        assert torch.equal(logits(model, batch), expected)
        assert not any(p.requires_grad for p in model.parameters())
    again = PeftModel.from_pretrained(load(), tmp_path, is_trainable=True)
    assert sum(p.requires_grad for p in again.parameters()) == len(
        tuned.peft_config["default"].modules
    )


def test_transformers_loads_a_saved_adapter_itself(
    tuned: Any, load: Callable, batch: Batch, tmp_path: Path
) -> None:
    tuned.save_pretrained(tmp_path)
    model = load()
    model.load_adapter(str(tmp_path))
    assert torch.equal(logits(model, batch), logits(tuned, batch))


def test_an_adapter_is_the_same_files_here_and_in_the_pipeline(
    tuned: Any, load: Callable, batch: Batch, tmp_path: Path
) -> None:
    """Both read what the other wrote, bit for bit."""
    tuned.save_pretrained(tmp_path / "peft")
    ours = load_adapter(load(), tmp_path / "peft")
    save_adapter(ours, tmp_path / "ours")
    for file in ("adapter_model.safetensors",):
        one, two = (tmp_path / kind / file for kind in ("peft", "ours"))
        assert one.read_bytes() == two.read_bytes()
    peft_config, our_config = (
        json.loads((tmp_path / kind / "adapter_config.json").read_text())
        for kind in ("peft", "ours")
    )
    assert our_config.items() <= peft_config.items()
    back = PeftModel.from_pretrained(load(), tmp_path / "ours")
    assert torch.equal(logits(back, batch), logits(tuned, batch))
    assert states(merge_and_unload(ours), back.merge_and_unload())


def test_disable_unload_merge_and_unmerge(tuned: Any, load: Callable, batch: Batch) -> None:
    expected, base = logits(tuned, batch), logits(load(), batch)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned, batch), base)
    assert torch.equal(logits(tuned, batch), expected)
    tuned.merge_adapter()
    torch.testing.assert_close(logits(tuned, batch), expected)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned, batch), base)
    tuned.merge_adapter()
    tuned.unmerge_adapter()
    assert torch.equal(logits(tuned, batch), expected)
    assert states(tuned.unload(), load())


def test_merge_and_unload_gives_a_plain_model_with_the_blocks(
    tuned: Any, load: Callable, batch: Batch, tmp_path: Path
) -> None:
    expected = logits(tuned, batch)
    blocks = {
        name: (module.smt_delta["default"].indices, module.smt_delta["default"].blocks)
        for name, module in tuned.base_model.model.named_modules()
        if isinstance(module, SmtLayer)
    }
    merged = tuned.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(merged, batch), expected)
    for name, (indices, values) in blocks.items():
        weight = merged.get_submodule(name).weight
        for (row, col), block in zip(indices.tolist(), values, strict=True):
            assert torch.equal(weight[row * 8 : row * 8 + 8, col * 8 : col * 8 + 8], block)
    merged.save_pretrained(tmp_path)
    assert states(type(merged).from_pretrained(tmp_path), merged)


def test_adapters_on_one_base_do_not_disturb_each_other(
    tuned: Any, load: Callable, make_config: Callable, train: Callable, batch: Batch, tmp_path: Path
) -> None:
    one = logits(tuned, batch)
    tuned.add_adapter("two", make_config(num_blocks=9, seed=1))
    assert torch.equal(logits(tuned, batch), one)
    tuned.set_adapter("two")
    assert torch.equal(logits(tuned, batch), logits(load(), batch))
    train(tuned)
    two = logits(tuned, batch)
    tuned.set_adapter("default")
    assert torch.equal(logits(tuned, batch), one)

    tuned.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(), tmp_path)
    again.load_adapter(tmp_path / "two", "two")
    again.set_adapter("two")
    assert torch.equal(logits(again, batch), two)
    again.base_model.set_adapter(["default", "two"])
    both = logits(again, batch)
    again.merge_adapter()
    torch.testing.assert_close(logits(again, batch), both)
    again.unmerge_adapter()
    assert torch.equal(logits(again, batch), both)
    again.delete_adapter("default")
    assert torch.equal(logits(again, batch), two)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_blocks_of_a_half_precision_base_are_float32_and_are_saved_exactly(
    load: Callable, make_config: Callable, train: Callable, batch: Batch, tmp_path: Path,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    model = get_peft_model(load(dtype=dtype), make_config())
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    losses = train(model, 5)
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(dtype=dtype), tmp_path)
    assert torch.equal(logits(again, batch), logits(model, batch))
    merged, plain = again.merge_and_unload(), load_adapter(load(dtype=dtype), tmp_path)
    assert states(merged, merge_and_unload(plain))


def test_other_modules_are_saved_as_a_whole(
    load: Callable, make_config: Callable, train: Callable, batch: Batch, tmp_path: Path
) -> None:
    model = get_peft_model(load(), make_config(modules_to_save=["norm"]))
    train(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(), tmp_path)
    assert torch.equal(logits(again, batch), logits(model, batch))
    with pytest.raises(UserError, match="modules_to_save is not supported here"):
        load_adapter(load(), tmp_path)


def test_a_compiled_model_has_no_graph_break(tuned: Any, batch: Batch) -> None:
    compiled = torch.compile(tuned, fullgraph=True, backend="aot_eager")
    gradients = []
    for model in (tuned, compiled):
        tuned.zero_grad()
        model(**batch).loss.backward()
        gradients.append([p.grad for p in tuned.parameters() if p.requires_grad])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_gpt2_with_transposed_weights(tmp_path: Path, batch: Batch, train: Callable) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def make() -> Any:
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=100, n_positions=16, n_embd=32, n_layer=2, n_head=4)
        return GPT2LMHeadModel(config).eval()

    table = {
        "transformer.h.0.attn.c_attn": {"shape": [96, 32], "blocks": [1, 6]},
        "transformer.h.1.mlp.c_fc": {"shape": [128, 32], "blocks": [30]},
    }
    config = SmtConfig(block_size=8, modules=table, task_type="CAUSAL_LM")
    model = get_peft_model(make(), config)
    train(model)
    expected = logits(model, batch)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(load_adapter(make(), tmp_path), batch), expected)
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), expected)


def test_a_base_model_that_does_not_fit_is_refused_and_left_as_it_is(
    tuned: Any, load: Callable, make_llama: Callable, make_config: Callable, tmp_path: Path
) -> None:
    tuned.save_pretrained(tmp_path)
    cases = [
        (make_llama(seed=1), "weight at the adapter's blocks differs"),
        (make_llama(rms_norm_eps=1e-3), "config differs"),
        (make_llama(num_hidden_layers=1), "must be in the model, once; got 'no such module'"),
        (make_llama(hidden_size=64), r"must have the shape \(32, 32\); got \(64, 64\)"),
    ]
    for model, message in cases:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(UserError, match=message):
            PeftModel.from_pretrained(model, tmp_path)
        after = model.state_dict()
        assert before.keys() == after.keys()
    config = SmtConfig.from_pretrained(str(tmp_path))
    config.check_base = False
    PeftModel.from_pretrained(make_llama(seed=1), tmp_path, config=config)


def test_modules_that_cannot_be_tuned_are_refused(load: Callable) -> None:
    for name, shape, message in [
        ("model.layers.0.mlp", [8, 8], "must be a plain or quantised linear; got 'LlamaMLP'"),
        ("q_proj", [32, 32], "must be in the model, once"),
        ("lm_head", [100, 32], "tied"),
    ]:
        config = SmtConfig(block_size=4, modules={name: {"shape": shape, "blocks": [0]}})
        with pytest.raises(UserError, match=message):
            get_peft_model(load(), config)


def test_an_adapter_is_not_added_while_another_is_merged(tuned: Any, make_config: Callable) -> None:
    tuned.merge_adapter()
    with pytest.raises(UserError, match="call unmerge_adapter first"):
        tuned.add_adapter("two", make_config())


def test_rows_with_adapters_of_their_own_are_refused(tuned: Any, batch: Batch) -> None:
    names = ["default", "__base__"]
    for call in (tuned, lambda **given: tuned.generate(max_new_tokens=1, **given)):
        with pytest.raises(UserError, match="adapter_names: is not supported"):
            call(input_ids=batch["input_ids"], adapter_names=names)


@pytest.mark.slow
def test_peft_alone_says_what_to_import(tuned: Any, base: Path, tmp_path: Path) -> None:
    tuned.save_pretrained(tmp_path)
    code = f"from peft import AutoPeftModelForCausalLM as A; A.from_pretrained('{tmp_path}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "SMT: import smt_ray.peft before this adapter is loaded" in done.stderr.splitlines()[-1]
    done = subprocess.run(
        [sys.executable, "-c", "import smt_ray.peft;" + code], capture_output=True, check=False
    )
    assert done.returncode == 0
