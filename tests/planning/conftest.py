"""The config of a small architecture, for which no file must be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smt_ray.config.load import apply_overrides, validate_config
from smt_ray.config.run import RunConfig

LLAMA = {
    "model_type": "llama", "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="session")
def small_run() -> Callable[..., dict[str, Any]]:
    """Makes the plain values of a config, with overrides as on the command line."""

    def make(*overrides: str) -> dict[str, Any]:
        values: dict[str, Any] = {
            "name": "planned",
            "model": {"architecture": dict(LLAMA)},
            "data": {
                "train": ["builtin:tiny_arithmetic"], "max_length": 65, "train_on_inputs": True,
            },
            "selection": {"block_size": 32, "budget": 0.05},
            "lora": {"rank": 8},
            "training": {"batch_size": 8},
            "batching": {"mode": "packed", "max_tokens": 256},
        }  # fmt: skip
        return apply_overrides(values, overrides)

    return make


@pytest.fixture(scope="session")
def small_config(small_run: Callable[..., dict[str, Any]]) -> Callable[..., RunConfig]:
    """Makes such a config, validated."""
    return lambda *overrides: validate_config(small_run(*overrides))
