"""Claims about LoRA's targets: peft trains exactly what they name, or they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smt_ray.config.load import validate_config
from smt_ray.errors import UserError
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.lora_check import adapter_problem
from smt_ray.models.config import model_class
from smt_ray.probe.probe import probe_skeleton
from smt_ray.probe.shrink import shrunk


def small(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING[model_type]())
    with torch.device("meta"):
        return model_class(config).from_config(config)


def check(model: Any, **lora: Any) -> LoraSettings:
    config = validate_config(
        {
            "name": "check",
            "storage": "unused",
            "model": {"builtin": "tiny"},
            "data": {"train": ["none"]},
            "method": "lora",
            "lora": lora,
        }
    )
    return LoraSettings.check(config, lambda: model, probe_skeleton(model), None)


def test_auto_is_the_published_targets_on_a_llama() -> None:
    expected = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    assert check(small("llama")).target_modules == expected


@pytest.mark.parametrize("model_type", ["glm4_moe", "qwen3_next", "laguna"])
def test_auto_leaves_out_linears_that_peft_would_send_to_experts(model_type: str) -> None:
    assert check(small(model_type)).target_modules == ("q_proj", "k_proj", "v_proj")


@pytest.mark.parametrize("model_type", ["glm4_moe", "laguna"])
def test_the_same_linears_are_refused_when_they_are_named(model_type: str) -> None:
    model = small(model_type)
    with pytest.raises(UserError, match=r"lora\.target_modules: must adapt exactly the linears"):
        check(model, target_modules=["q_proj", "up_proj", "down_proj"])


def test_other_modules_that_peft_would_adapt_are_named() -> None:
    model = small("llama")

    class Other(LoraMethod):
        def prepare(self, model: Any) -> None:
            super().prepare(model)
            layer = model.get_submodule("model.layers.0.mlp")
            layer.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(2, 2, device="meta")})

    method = Other(LoraSettings(4, 8, 0.0, ("q_proj",), use_dora=False, seed=0))
    problem = adapter_problem(method, ["q_proj"], model)
    assert problem == "peft would also adapt model.layers.0.mlp (1 modules)"


def test_towers_are_left_out_by_whole_names() -> None:
    settings = check(small("gemma3"))
    assert all("language_model" in name for name in settings.target_modules)


def test_layers_adapt_the_same_linears_as_pefts_layers_to_transform() -> None:
    from peft import LoraConfig, get_peft_model

    settings = check(small("llama"), layers=[1, 1])
    assert settings.describe()["target_modules"] == [
        "q_proj", "k_proj", "v_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    assert settings.describe()["layers"] == "1 to 1"
    ours, theirs = small("llama"), small("llama")
    LoraMethod(settings).prepare(ours)
    targets = settings.describe()["target_modules"]
    get_peft_model(theirs, LoraConfig(target_modules=targets, layers_to_transform=[1]))
    adapted = [[n for n, _ in model.named_parameters() if "lora" in n] for model in (ours, theirs)]
    assert adapted[0] == adapted[1]
    assert all(".layers.1." in name for name in adapted[0])
    with pytest.raises(UserError, match=r"^lora\.layers: "):
        check(small("llama"), layers=[1, 99])
