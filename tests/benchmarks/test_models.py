"""Each usual type of model works with each part of the product, and equals the plain way."""

from __future__ import annotations

import pytest

from benchmarks.model_types import TYPES
from benchmarks.models import survey

PACKED = {
    "llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "ministral3", "mixtral", "gemma",
    "gemma3_text", "gemma3", "gemma4", "phi", "phi3", "olmo2", "olmo3", "granite", "gpt_neox",
    "gpt2", "opt", "starcoder2", "cohere2", "smollm3", "deepseek_v3", "glm4", "glm4_moe",
    "exaone4", "ernie4_5", "hunyuan_v1_dense", "seed_oss", "apertus",
}  # fmt: skip
"""The types of which rows share a prefix; the others are padded."""


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_works_everywhere_and_equals_the_plain_way(model_type: str) -> None:
    row = survey(model_type)
    assert row.modules
    assert not any(text.startswith(("refused", "fails")) for text in vars(row).values()), row
    assert float(row.gradient) < 1e-5
    mode, error = row.batching.split()
    assert float(error) < 1e-4
    assert mode == ("prefix_packed" if model_type in PACKED else "padded")
    assert row.saving == row.likelihood == "ok"
