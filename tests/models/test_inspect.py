"""The linears, the number of parameters and the identity of a model."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models.inspect import count_parameters, find_eligible, model_identity
from smt_ray.smt.model import make_sparse


def refused(model: nn.Module, *targets: str) -> UserError:
    with pytest.raises(UserError) as caught:
        find_eligible(model, targets)
    assert caught.value.field == "warmup.target_modules"
    return caught.value


def test_eligible_linears_come_in_the_models_order(make_llama: Callable[..., Any]) -> None:
    found = find_eligible(make_llama(), ["v_proj", "q_proj"])
    assert list(found) == [
        f"model.layers.{layer}.self_attn.{name}"
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    ]
    assert all(isinstance(module, nn.Linear) for module in found.values())


def test_a_target_may_be_a_full_name_or_some_last_parts(make_llama: Callable[..., Any]) -> None:
    full = "model.layers.1.mlp.up_proj"
    assert list(find_eligible(make_llama(), [full])) == [full]
    assert list(find_eligible(make_llama(), ["1.mlp.up_proj"])) == [full]


def test_a_target_matches_whole_parts_of_names_only(make_llama: Callable[..., Any]) -> None:
    error = refused(make_llama(), "proj")
    assert (error.rule, error.got) == ("must each match at least one module", "proj")


@pytest.mark.parametrize("tied", [True, False])
def test_a_target_that_matches_nothing_is_refused_even_if_others_match(
    make_llama: Callable[..., Any], tied: bool
) -> None:
    error = refused(make_llama(tie_word_embeddings=tied), "q_proj", "query")
    assert error.got == "query"
    proposed = error.fix.rpartition("there are ")[2].split(", ")
    projections = {f"{x}_proj" for x in ("q", "k", "v", "o", "gate", "up", "down")}
    assert set(proposed) == projections | (set() if tied else {"lm_head"})


@pytest.mark.parametrize(
    ("target", "kind"),
    [("embed_tokens", "Embedding"), ("norm", "LlamaRMSNorm"), ("mlp", "LlamaMLP")],
)
def test_a_target_that_is_no_linear_is_refused(
    make_llama: Callable[..., Any], target: str, kind: str
) -> None:
    error = refused(make_llama(), target)
    assert error.rule.startswith("must name plain or quantised torch.nn.Linear modules, but ")
    assert error.rule.endswith(f"{target} is a {kind}")
    assert error.got == [target]
    assert "q_proj" in error.fix


def test_a_subclass_of_linear_is_refused_as_eligible_and_as_a_sparse_layer(
    make_llama: Callable[..., Any],
) -> None:
    class Linear4bit(nn.Linear):
        pass

    model = make_llama()
    name = "model.layers.1.self_attn.q_proj"
    model.set_submodule(name, Linear4bit(32, 32))
    assert refused(model, "q_proj").rule.endswith(f"{name} is a Linear4bit")
    with pytest.raises(UserError, match="got 'Linear4bit'"):
        make_sparse(model, 4, {name: (32, 32)}, {name: torch.tensor([[0, 0]])}, {})


def test_a_class_that_is_only_named_like_gpt2s_linear_is_refused(
    make_llama: Callable[..., Any],
) -> None:
    class Conv1D(nn.Conv1d):
        pass

    model = make_llama()
    model.set_submodule("model.layers.1.self_attn.q_proj", Conv1D(32, 32, 1))
    assert refused(model, "q_proj").rule.endswith("q_proj is a Conv1D")


def test_a_tied_linear_is_refused(make_llama: Callable[..., Any]) -> None:
    assert list(find_eligible(make_llama(tie_word_embeddings=False), ["lm_head"])) == ["lm_head"]
    with pytest.raises(UserError, match=r"lm_head is tied to model\.embed_tokens\.weight"):
        find_eligible(make_llama(), ["q_proj", "lm_head"])


def test_parameters_are_counted_once_where_they_are_tied(make_llama: Callable[..., Any]) -> None:
    tied, apart = make_llama(), make_llama(tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert count_parameters(apart) - count_parameters(tied) == 100 * 32
    by_hand = 100 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32) + 32
    assert count_parameters(tied) == by_hand


def test_identity_changes_with_any_file_of_the_model(folder: Path) -> None:
    seen = {str(model_identity(ModelConfig(path=str(folder))))}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        file = folder / name
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        seen.add(str(model_identity(ModelConfig(path=str(folder)))))
    assert len(seen) == 4


def test_a_models_files_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_identity(ModelConfig(path=str(folder)))
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert model_identity(ModelConfig(path=str(folder))) == before


def test_identity_depends_on_the_content_but_not_on_place_or_time(
    folder: Path, tmp_path: Path
) -> None:
    before = model_identity(ModelConfig(path=str(folder)))
    (folder / "model.safetensors").touch()
    os.utime(folder / "config.json", (0, 0))
    (folder / "README.md.swp").write_text("of no account")
    (folder / "checkpoints").mkdir()
    assert model_identity(ModelConfig(path=str(folder))) == before
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert model_identity(ModelConfig(path=str(moved))) == before


def test_identity_depends_on_the_dtype_but_not_on_the_kernel(folder: Path) -> None:
    path = str(folder)
    found = model_identity(ModelConfig(path=path))
    assert found != model_identity(ModelConfig(path=path, dtype="bfloat16"))
    assert found == model_identity(ModelConfig(path=path, attn_implementation="eager"))


def test_the_identity_of_gguf_weights_depends_on_their_file_only(folder: Path) -> None:
    (folder / "a.gguf").write_bytes(b"one")
    (folder / "b.gguf").write_bytes(b"two")
    a, b = (ModelConfig(path=str(folder), gguf_file=f"{name}.gguf") for name in "ab")
    before = model_identity(a)
    assert before != model_identity(b)
    (folder / "b.gguf").write_bytes(b"three")
    (folder / "config.json").write_text("{}")
    assert model_identity(a) == before


def test_a_gguf_file_that_is_not_there_has_no_identity(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none\.gguf"):
        model_identity(ModelConfig(path=str(folder), gguf_file="none.gguf"))
