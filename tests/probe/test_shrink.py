"""Claims about small configs: the kind of computation stays, the sizes do not."""

from __future__ import annotations

from typing import Any

import pytest

from smt_ray.probe.shrink import VOCABULARY, WINDOW, shrunk


def small(model_type: str, **changes: Any) -> Any:
    from transformers import CONFIG_MAPPING

    return shrunk(CONFIG_MAPPING[model_type](**changes))


def test_sizes_shrink_and_the_ratio_of_heads_stays() -> None:
    config = small("llama", num_key_value_heads=8, tie_word_embeddings=True, attention_bias=True)
    assert config.hidden_size == 64
    assert config.vocab_size == VOCABULARY
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.tie_word_embeddings
    assert config.attention_bias
    assert small("llama", num_key_value_heads=32).num_key_value_heads == 4
    assert small("llama", num_key_value_heads=1).num_key_value_heads == 1


def test_every_kind_of_layer_stays() -> None:
    kinds = ["sliding_attention"] * 20 + ["full_attention"]
    config = small("gemma3_text", num_hidden_layers=21, layer_types=kinds)
    assert set(config.layer_types) == set(kinds)
    assert config.num_hidden_layers == len(config.layer_types) < 21
    assert config.sliding_window == WINDOW


def test_a_list_of_the_numbers_of_all_layers_makes_no_kinds() -> None:
    config = small("llama4").text_config
    assert config.num_hidden_layers <= 12
    assert config.moe_layers == list(range(config.num_hidden_layers))


def test_single_layers_with_other_values_keep_them() -> None:
    config = small("gemma4_text")
    widths = {own["head_dim"] for own in config.to_dict()["per_layer_config"].values()}
    assert widths == {32}
    assert config.to_dict()["head_dim"] == 16


@pytest.mark.parametrize(
    "model_type", ["llama", "llama4", "qwen3_next", "deepseek_v3", "gemma4_text"]
)
def test_a_small_config_stays_as_it_is(model_type: str) -> None:
    once = small(model_type)
    assert shrunk(once).to_dict() == once.to_dict()


def test_the_bound_of_longrope_is_crossed_by_the_rows_of_a_probe() -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 48,
        "long_factor": [3.0] * 48, "original_max_position_embeddings": 4096,
    }  # fmt: skip
    config = small("phi3", rope_parameters=rope, original_max_position_embeddings=4096)
    assert config.rope_parameters["original_max_position_embeddings"] == 2 * WINDOW
    assert len(config.rope_parameters["long_factor"]) == 8
