"""Tiny random models of the usual families, all with 100 tokens, two layers, hidden size 32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

VOCABULARY = 100
SLIDING_WINDOW = 8


def _build(config_name: str, class_name: str, **values: Any) -> Any:
    """Builds the same weights every time. Biases and norms are random, so that a lost one shows."""
    import transformers

    no_special_tokens = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    config = getattr(transformers, config_name)(
        vocab_size=VOCABULARY, initializer_range=0.1, **no_special_tokens, **values
    )
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


_LIKE_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": partial(_build, "LlamaConfig", "LlamaForCausalLM", **_LIKE_LLAMA),
    # A bias on q, k and v; the head is tied.
    "qwen2": partial(
        _build, "Qwen2Config", "Qwen2ForCausalLM", **_LIKE_LLAMA, tie_word_embeddings=True
    ),
    # A window shorter than the longer rows.
    "mistral": partial(
        _build, "MistralConfig", "MistralForCausalLM", **_LIKE_LLAMA, sliding_window=SLIDING_WINDOW
    ),
    # Heads whose widths do not add up to the hidden size, scaled embeddings, norms with 1 + w.
    "gemma": partial(_build, "GemmaConfig", "GemmaForCausalLM", **_LIKE_LLAMA, head_dim=16),
    # q, k and v in one linear, gate and up in another.
    "phi3": partial(_build, "Phi3Config", "Phi3ForCausalLM", **_LIKE_LLAMA),
    # Linears are Conv1D, their weights (in, out); learned positions.
    "gpt2": partial(
        _build, "GPT2Config", "GPT2LMHeadModel", n_embd=32, n_layer=2, n_head=4, n_positions=64
    ),
    # Linears of a class of its own; q, k and v in one of them; it cannot be packed.
    "falcon": partial(
        _build,
        "FalconConfig",
        "FalconForCausalLM",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        max_position_embeddings=64,
        bias=True,
        new_decoder_architecture=True,
    ),
}
"""Family -> the function that makes its model, in evaluation mode and float32."""

ATTENTION = {"phi3": ["qkv_proj"], "gpt2": ["c_attn"], "falcon": ["query_key_value"]}
"""The linears that hold q, k and v in families without q_proj, k_proj and v_proj."""
