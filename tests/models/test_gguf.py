"""A real model is loaded from GGUF weights, saved, and loaded again as a plain one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.config.model import ModelConfig
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.models.load import load_model, load_skeleton, load_tokenizer
from smt_ray.models.place import located
from smt_ray.models.save import save_model

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VARIABLE = "SMT_RAY_GGUF_DIR"

pytestmark = pytest.mark.slow


@pytest.fixture
def gguf() -> ModelConfig:
    folder = os.environ.get(VARIABLE)
    if folder is None or not (Path(folder) / FILE).is_file():
        pytest.skip(f"needs {FILE}: set {VARIABLE} to the folder that holds it")
    return located(ModelConfig(path=folder, gguf_file=FILE))


def test_the_skeleton_of_gguf_weights_has_the_known_shapes(gguf: ModelConfig) -> None:
    skeleton = load_skeleton(gguf)
    assert count_parameters(skeleton) == 134_515_008
    shapes = [tuple(m.weight.shape) for m in find_eligible(skeleton, ["q_proj", "k_proj"]).values()]
    assert set(shapes) == {(576, 576), (192, 576)}


def test_saved_gguf_weights_load_as_a_plain_model_with_the_same_logits(
    gguf: ModelConfig, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = load_model(gguf), load_tokenizer(gguf)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
    assert tokenizer.decode(expected[0, -1].argmax()).strip() == "Paris"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    again = AutoTokenizer.from_pretrained(tmp_path)("The capital of France is", return_tensors="pt")
    assert torch.equal(again["input_ids"], inputs["input_ids"])
    with torch.no_grad():
        assert torch.equal(plain(**again).logits, expected)


def test_gguf_weights_that_were_tuned_are_saved_as_a_plain_model(
    gguf: ModelConfig, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tuned = {name: p.detach() / 2 for name, p in load_model(gguf).named_parameters()}
    save_model(gguf, tuned, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tuned[name]), name
    assert load_tokenizer(gguf.replaced_by(str(tmp_path))).eos_token_id == (
        load_tokenizer(gguf).eos_token_id
    )
