"""The settings of a method come from the config, and reach the ranks as plain values."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from smt_ray.methods.full import FullSettings
from smt_ray.methods.lora import LoraSettings
from smt_ray.methods.placed import PlacedSettings
from smt_ray.methods.registry import settings_of
from smt_ray.methods.smt import SmtSettings
from smt_ray.models.load import load_skeleton

METHODS = ("smt", "lora", "dora", "sift", "full")
LORA = (8, 16, 0.05, ("q_proj", "v_proj"))


def make_config(*overrides: str) -> RunConfig:
    return load_config(None, ["lora.rank=8", "lora.target_modules=[q_proj, v_proj]", *overrides])


def check(*overrides: str) -> Any:
    config = make_config(*overrides)
    selection = "selection.safetensors" if config.has_selection else None
    return settings_of(config).check(
        config, lambda: load_skeleton(config.model), Probe(), selection
    )


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("smt", SmtSettings("selection.safetensors")),
        ("lora", LoraSettings(*LORA, use_dora=False, seed=3)),
        ("dora", LoraSettings(*LORA, use_dora=True, seed=3)),
        ("sift", PlacedSettings("selection.safetensors")),
        ("full", FullSettings()),
    ],
)
def test_settings_are_those_of_the_config_and_can_be_pickled(method: str, expected: Any) -> None:
    found = check(f"method={method}", "seed=3")
    assert found == expected
    assert pickle.loads(pickle.dumps(found)) == expected


def test_columns_are_settings_of_smt_with_another_layer() -> None:
    assert check("selection.block_shape=column") == PlacedSettings("selection.safetensors")


def test_a_budget_becomes_a_rank_and_alpha_is_twice_the_rank() -> None:
    by_rank = check("method=lora")
    by_budget = check("method=lora", "lora={budget: 0.05}")
    assert by_rank.alpha == 2 * by_rank.rank
    assert by_budget.rank > 1
    assert by_budget.alpha == 2 * by_budget.rank
    assert check("method=lora", "lora.alpha=5").alpha == 5


def test_lora_describes_its_settings_and_other_methods_have_none() -> None:
    assert check("method=lora").describe() == {
        "rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert check("method=smt").describe() == check("method=full").describe() == {}


def test_only_full_fine_tuning_saves_a_whole_model() -> None:
    whole = {
        method: settings_of(make_config(f"method={method}")).is_whole_model for method in METHODS
    }
    assert [method for method in METHODS if whole[method]] == ["full"]


@pytest.mark.parametrize("method", METHODS)
def test_the_training_stage_depends_on_the_lora_section_with_lora_only(method: str) -> None:
    def inputs(*overrides: str) -> dict[str, Any]:
        config = make_config(f"method={method}", *overrides)
        return settings_of(config).stage_inputs(config)

    assert (inputs() != inputs("lora.rank=4")) == (method in ("lora", "dora"))


@pytest.mark.parametrize("method", ["smt", "sift", "full"])
def test_a_method_that_needs_no_model_loads_none(method: str) -> None:
    def skeleton() -> nn.Module:
        raise AssertionError("loaded")

    config = make_config(f"method={method}")
    selection = "selection.safetensors" if config.has_selection else None
    settings_of(config).check(config, skeleton, Probe(), selection)


def test_a_target_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"^lora\.target_modules: "):
        check("method=lora", "lora.target_modules=[query]")


def test_a_folder_without_an_adapter_is_refused_and_its_files_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be an adapter's folder") as caught:
        find_method(tmp_path)
    assert caught.value.got == "no files"
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError) as caught:
        find_method(tmp_path)
    assert caught.value.got == "model.bin"
    for name in ("sift_adapter.safetensors", "column_adapter.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="which holds one of"):
        find_method(tmp_path)
