"""The model types of the survey, with what their default configs lack."""

from __future__ import annotations

from typing import Any

_HYBRID = {"layer_types": ["mamba", "attention", "mamba", "mamba"], "num_hidden_layers": 4}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [2], "num_hidden_layers": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"kv_n_heads": 8, "rope_theta": 5e5, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "granitemoehybrid": _HYBRID,
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"],
             "num_hidden_layers": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"],
                 "num_hidden_layers": 4},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "phimoe": {"sliding_window": 2048},
    "qwen2_moe": {"use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 2},
}  # fmt: skip
"""Values for types whose default config is no whole model, or leaves out what is special."""

TYPES = (
    "llama", "llama4", "qwen2", "qwen3", "qwen3_moe", "qwen2_moe", "qwen3_next",
    "qwen3_5", "mistral", "ministral3", "mixtral", "gemma", "gemma2", "gemma3_text", "gemma3",
    "gemma4", "phi", "phi3", "phimoe", "olmo2", "olmo3", "granite", "granitemoehybrid",
    "gpt_neox", "gpt2", "opt", "falcon", "bloom", "starcoder2", "stablelm", "cohere2", "smollm3",
    "gpt_oss", "deepseek_v3", "glm4", "glm4_moe", "exaone4", "nemotron", "jamba", "falcon_h1",
    "lfm2", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "apertus",
)  # fmt: skip
"""The types that the tests cover; the survey covers all of transformers' causal ones."""
