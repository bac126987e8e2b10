"""Claims about the linears that ``target_modules: auto`` stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models.config import model_class
from smt_ray.models.inspect import find_eligible
from smt_ray.models.load import load_model, load_skeleton
from smt_ray.models.targets import attention_inputs, mlp_linears
from smt_ray.probe.probe import probe_skeleton
from smt_ray.probe.shrink import shrunk


def small(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING[model_type]())
    with torch.device("meta"):
        return model_class(config).from_config(config)


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj"}),
        ("phi3", {"qkv_proj"}),
        ("gpt_neox", {"query_key_value"}),
        ("mpt", {"Wqkv"}),
        ("deepseek_v3", {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"}),
        ("mamba", {"in_proj", "x_proj"}),
    ],
)
def test_auto_finds_what_makes_queries_keys_and_values(model_type: str, expected: set[str]) -> None:
    found = find_eligible(small(model_type), "auto")
    assert {name.rpartition(".")[2] for name in found} == expected


def test_auto_leaves_out_towers_that_text_does_not_reach() -> None:
    model = small("gemma3")
    everywhere = find_eligible(model, "auto")
    found = find_eligible(model, "auto", unused=probe_skeleton(model).unused_linears)
    assert any("vision" in name for name in everywhere)
    assert found
    assert all("language_model" in name for name in found)


def test_a_linear_whose_forward_is_not_called_cannot_be_named() -> None:
    model = small("jamba")
    unused = probe_skeleton(model).unused_linears
    with pytest.raises(UserError, match="must each match at least one module; got 'dt_proj'"):
        find_eligible(model, ["dt_proj"], unused=unused)


def test_unknown_names_are_proposed() -> None:
    with pytest.raises(UserError, match=r"auto knows none of[\s\S]*there are linear_1, linear_2"):
        attention_inputs(["a.linear_1", "a.linear_2"], field="warmup.target_modules")


def test_fused_experts_are_said_to_be_out_of_reach() -> None:
    with pytest.raises(UserError, match=r"experts\.gate_up_proj and the like[\s\S]*out of reach"):
        find_eligible(small("mixtral"), ["gate_up_proj"])


def test_the_mlp_of_the_published_baselines_has_no_gate() -> None:
    names = ["m.gate_proj", "m.up_proj", "m.down_proj", "a.o_proj"]
    assert mlp_linears(names) == ["up_proj", "down_proj"]


def test_a_model_of_images_and_text_is_loaded_for_its_text(tmp_path: Any) -> None:
    from transformers import CONFIG_MAPPING

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = shrunk(CONFIG_MAPPING["qwen2_vl"](text_config={"rope_parameters": rope}))
    model_class(config).from_config(config).save_pretrained(tmp_path)
    model: Any = load_model(ModelConfig(path=str(tmp_path)))
    ids = torch.arange(4, 20)[None]
    assert model(input_ids=ids).logits.shape[:2] == (1, 16)
    skeleton: Any = load_skeleton(ModelConfig(path=str(tmp_path)))
    assert type(skeleton) is type(model)
    probe = probe_skeleton(skeleton)
    found = find_eligible(skeleton, "auto", unused=probe.unused_linears)
    assert all("visual" not in name for name in found)
    assert probe.is_exact("padded")


def test_values_of_the_config_can_be_replaced(tmp_path: Any) -> None:
    from transformers import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING["mixtral"](output_router_logits=True))
    model_class(config).from_config(config).save_pretrained(tmp_path)
    overrides = {"output_router_logits": False}
    for load in (load_model, load_skeleton):
        plain: Any = load(ModelConfig(path=str(tmp_path)))
        changed: Any = load(ModelConfig(path=str(tmp_path), config_overrides=overrides))
        assert plain.config.output_router_logits
        assert not changed.config.output_router_logits


@pytest.mark.parametrize("model_type", ["gpt_oss", "gemma2"])
def test_auto_takes_the_attention_that_the_model_has(model_type: str, tmp_path: Any) -> None:
    from transformers import CONFIG_MAPPING

    config = shrunk(CONFIG_MAPPING[model_type]())
    model_class(config).from_config(config).save_pretrained(tmp_path)
    model: Any = load_model(ModelConfig(path=str(tmp_path)))
    assert model.config._attn_implementation == "eager"
    with pytest.raises(UserError, match=r"attn_implementation[\s\S]*set it to auto"):
        load_model(ModelConfig(path=str(tmp_path), attn_implementation="sdpa"))


@pytest.mark.parametrize("key", ["no_such_key", "dtype", "attn_implementation"])
def test_a_key_that_the_config_does_not_have_cannot_be_replaced(key: str) -> None:
    model = ModelConfig(architecture={"model_type": "llama"}, config_overrides={key: 1})
    with pytest.raises(UserError, match=rf"model\.config_overrides: must name keys.*got '{key}'"):
        load_skeleton(model)


def test_values_of_a_part_of_the_config_are_replaced_by_nested_values() -> None:
    overrides = {"text_config": {"attention_dropout": 0.25}}
    model = ModelConfig(architecture={"model_type": "gemma3"}, config_overrides=overrides)
    skeleton: Any = load_skeleton(model)
    assert skeleton.config.get_text_config().attention_dropout == 0.25
