"""Tiny random models of many families."""

from __future__ import annotations

from typing import Any

import torch


def tiny(name: str, **changes: Any) -> Any:
    """A tiny random model of a family, which is named by its model type."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.1,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**values, **changes})
    return AutoModelForCausalLM.from_config(config).eval()
