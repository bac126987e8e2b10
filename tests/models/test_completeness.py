"""A model whose files lack a weight, or hold others, is refused by the names of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models.load import load_model

Q = "model.layers.0.self_attn.q_proj.weight"
Weights = dict[str, torch.Tensor]


def change(folder: Path, edit: Callable[[Weights], Any]) -> ModelConfig:
    file = folder / "model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return ModelConfig(path=str(folder))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda w: w.pop(Q), f"missing: {Q}"),
        (lambda w: w.pop("model.embed_tokens.weight"), "missing: model.embed_tokens.weight"),
        (lambda w: w.pop("model.norm.weight"), "missing: model.norm.weight"),
        (lambda w: w.update({Q: w[Q][:16].clone()}), f"of another shape: {Q}"),
        (lambda w: w.update({"score.w": torch.ones(2)}), "not part of the model: score.w"),
        (lambda w: w.update({f"x.{Q}": w.pop(Q)}), f"missing: {Q}; not part of the model: x.{Q}"),
        (
            lambda w: [w.pop(name) for name in list(w) if "mlp" in name],
            "missing: model.layers.0.mlp.down_proj.weight, model.layers.0.mlp.gate_proj.weight",
        ),
    ],
    ids=["missing", "embedding", "norm", "shape", "unexpected", "renamed", "many"],
)  # fmt: skip
def test_wrong_weights_are_named(folder: Path, edit: Callable[[Weights], Any], named: str) -> None:
    with pytest.raises(UserError) as raised:
        load_model(change(folder, edit))
    assert named in str(raised.value)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_buffers_of_older_versions_are_no_weights(folder: Path) -> None:
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    load_model(change(folder, lambda w: w.update({buffer: torch.ones(4)})))


def test_tied_weights_are_missing_only_if_the_config_does_not_tie_them(folder: Path) -> None:
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model: Any = load_model(ModelConfig(path=str(folder)))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(UserError, match=r"missing: lm_head\.weight"):
        load_model(ModelConfig(path=str(folder)))
