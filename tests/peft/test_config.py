"""Claims about the config: where it comes from, and that its files belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model

from smt_ray.errors import UserError
from smt_ray.peft import SmtConfig, score_table, select
from smt_ray.smt.adapter import save_adapter
from smt_ray.smt.model import apply_selection
from tests.selections import choose

MODULES = {"q_proj": {"shape": [32, 32], "blocks": [0, 5]}}


def test_a_selection_a_table_and_an_adapter_give_the_same_config(
    load: Callable, batch: dict[str, Any], tmp_path: Path
) -> None:
    model = load()
    table = score_table(model, [batch], block_size=8)
    selection = select(model, [batch], block_size=8, num_blocks=6)
    config = SmtConfig.from_selection(selection, task_type="CAUSAL_LM")
    assert sum(len(module["blocks"]) for module in config.modules.values()) == 6
    for name, module in config.modules.items():
        assert torch.equal(config.indices(name), selection.modules[name].indices)
        assert module["shape"] == list(selection.modules[name].shape)
    selection.save(tmp_path / "selection.safetensors")
    table.save(tmp_path / "table.safetensors")
    save_adapter(apply_selection(model, selection), tmp_path)
    options = {"task_type": "CAUSAL_LM"}
    same = [
        SmtConfig.from_selection(tmp_path / "selection.safetensors", **options),
        SmtConfig.from_table(table, num_blocks=6, block_size=8, **options),
        SmtConfig.from_table(tmp_path / "table.safetensors", num_blocks=6, block_size=8, **options),
        SmtConfig.from_adapter(tmp_path, **options),
    ]
    assert all(other == config for other in same)


def test_it_is_registered_in_peft() -> None:
    config = SmtConfig(block_size=8, modules=MODULES)
    assert config.peft_type == "SMT" == PeftType("SMT") == PeftType.SMT


def test_saved_numbers_of_blocks_stand_in_one_line(tmp_path: Path) -> None:
    SmtConfig(block_size=8, modules=MODULES).save_pretrained(str(tmp_path))
    assert '"blocks": [0, 5]' in (tmp_path / "adapter_config.json").read_text()
    assert SmtConfig.from_pretrained(str(tmp_path)) == SmtConfig(block_size=8, modules=MODULES)
    assert PeftConfig.from_pretrained(str(tmp_path)).modules == MODULES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "SmtConfig.modules: must name the blocks"),
        ({"modules": MODULES, "target_modules": ["v_proj"]}, "target_modules: must not be set"),
        ({"modules": MODULES, "block_dtype": "int8"}, "block_dtype: must be one of float32"),
        ({"modules": MODULES, "block_size": 0}, "block_size: must be a positive whole number"),
        ({"modules": {"q": {"shape": [32, 30], "blocks": [0]}}}, "must divide"),
        ({"modules": {"q": {"shape": [32, 32], "blocks": []}}}, "q.*at least one block"),
        ({"modules": {"q": {"shape": [32, 32], "blocks": [16]}}}, "q.*0 to 15.*got 16"),
        ({"modules": {"q": {"shape": [32, 32], "blocks": [3, 3]}}}, "q.*distinct"),
        ({"modules": {"q": {"blocks": [3, 3]}}}, "q.*shape and blocks"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SmtConfig(**{"block_size": 8, **values})


def test_files_that_do_not_belong_together_are_refused(
    load: Callable, make_config: Callable, train: Callable, tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        model = get_peft_model(load(), make_config(seed=seed))
        train(model)
        model.save_pretrained(tmp_path / name)
    one, two = tmp_path / "one", tmp_path / "two"
    tensors, config = one / "adapter_model.safetensors", one / "adapter_config.json"
    whole = tensors.read_bytes()
    values = json.loads(config.read_text())
    for content in (
        whole[:-16],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        (two / "adapter_model.safetensors").read_bytes(),
    ):
        tensors.write_bytes(content)
        with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
            PeftModel.from_pretrained(load(), one)
    tensors.write_bytes(whole)
    config.write_text(json.dumps(values | {"format_version": 7}))
    with pytest.raises(UserError, match=r"format_version 1; got .*7"):
        PeftModel.from_pretrained(load(), one)
    # Even without a hash, blocks are not put to places that they were not trained at.
    (one / "adapter_model.safetensors").write_bytes(
        (two / "adapter_model.safetensors").read_bytes()
    )
    config.write_text(json.dumps(values | {"tensors_sha256": None}))
    with pytest.raises((UserError, RuntimeError)):
        PeftModel.from_pretrained(load(), one)


def test_the_origin_and_the_base_are_saved(load: Callable, tmp_path: Path) -> None:
    model = load()
    selection = choose(model)
    get_peft_model(model, SmtConfig.from_selection(selection)).save_pretrained(tmp_path)
    config = SmtConfig.from_pretrained(str(tmp_path))
    assert config.selection == selection.origin
    assert config.base_model_name_or_path == model.name_or_path
    assert all(config.base.values())
