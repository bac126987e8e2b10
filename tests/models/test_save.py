"""Tuned weights are saved as a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from smt_ray.config.model import ModelConfig
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.models.save import save_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["builtin", "folder"])
def test_what_is_saved_loads_with_the_given_weights_in_the_bases_dtype(
    folder: Path, tmp_path: Path, source: str, dtype: str
) -> None:
    given = {"builtin": "tiny"} if source == "builtin" else {"path": str(folder)}
    base = ModelConfig(**given, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    tuned = {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in load_model(base).named_parameters()
    }
    save_model(base, tuned, tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = dict(model.named_parameters())
    assert found.keys() == tuned.keys()
    for name, parameter in found.items():
        assert parameter.dtype == getattr(torch, dtype)
        assert torch.equal(parameter, tuned[name].to(parameter.dtype)), name
    embeddings = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embeddings
    assert tied == model.config.tie_word_embeddings
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert vocabulary == load_tokenizer(base).get_vocab()
