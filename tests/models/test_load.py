"""Base models are loaded from a folder, the package, the hub or a bare architecture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smt_ray.artifacts.storage import Storage
from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models.inspect import count_parameters, model_identity
from smt_ray.models.load import load_model, load_skeleton, load_tokenizer, read_tokenizer

EVERYTHING = (load_model, load_tokenizer, load_skeleton, model_identity)


def refused(call: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_builtin_model_loads_with_its_tokenizer() -> None:
    tiny = ModelConfig(builtin="tiny")
    model, tokenizer = load_model(tiny), load_tokenizer(tiny)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    assert tokenizer.eos_token_id == model.config.eos_token_id
    with torch.no_grad():
        logits = model(**tokenizer("Add 1 and 2.", return_tensors="pt")).logits
    assert torch.isfinite(logits).all()


def test_a_folder_loads_as_it_was_saved_and_ready_to_evaluate(
    folder: Path, make_llama: Callable[..., Any]
) -> None:
    model, original = load_model(ModelConfig(path=str(folder))), make_llama()
    assert not model.training
    for (name, found), (_, expected) in zip(
        model.state_dict().items(), original.state_dict().items(), strict=True
    ):
        assert torch.equal(found, expected), name


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's own maps")
def test_weights_are_mapped_from_their_file_copy_on_write(folder: Path) -> None:
    """Processes on one machine share the pages, and do not see what another one writes."""
    file = folder / "model.safetensors"
    before = file.read_bytes()
    section = ModelConfig(path=str(folder))
    mine, theirs = load_model(section), load_model(section)
    weight = mine.get_parameter("model.layers.0.self_attn.q_proj.weight")
    assert _flags_of_mapping(weight.data_ptr(), file) == "rw-p"  # p for private
    expected = {name: parameter.clone() for name, parameter in theirs.named_parameters()}
    for parameter in mine.parameters():
        parameter.data.zero_()
    assert file.read_bytes() == before
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def _flags_of_mapping(address: int, file: Path) -> str | None:
    """The permissions of the mapping of a file at an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, flags, _, _, _, *path = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        if path == [str(file)] and start <= address < end:
            return flags
    return None


def test_a_remote_folder_loads_and_keeps_its_name(folder: Path) -> None:
    storage = Storage("memory://models")
    for file in folder.iterdir():
        storage.put_file(file, f"mine/{file.name}")
    remote, local = ModelConfig(path="memory://models/mine"), ModelConfig(path=str(folder))
    model: Any = load_model(remote)
    assert model.config._name_or_path == "memory://models/mine"
    for (name, found), (_, expected) in zip(
        model.state_dict().items(), load_model(local).state_dict().items(), strict=True
    ):
        assert torch.equal(found, expected), name
    assert load_tokenizer(remote).get_vocab() == load_tokenizer(local).get_vocab()
    assert model_identity(remote) == model_identity(local)
    error = refused(lambda: load_model(ModelConfig(path="memory://models/theirs")))
    assert (error.field, error.got) == ("model.path", "memory://models/theirs")


def test_weights_are_loaded_in_the_configured_dtype(folder: Path) -> None:
    model = load_model(ModelConfig(path=str(folder), dtype="bfloat16"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_attention_kernel_is_the_one_asked_for(folder: Path) -> None:
    model = load_model(ModelConfig(path=str(folder), attn_implementation="eager"))
    assert model.config._attn_implementation == "eager"


def test_a_tokenizer_without_padding_pads_with_eos(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(ModelConfig(path=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None
    # What is written beside weights stays as it is.
    assert read_tokenizer(ModelConfig(path=str(folder))).pad_token_id is None


@pytest.mark.parametrize("tied", [True, False])
def test_the_skeleton_has_the_models_names_and_shapes_and_no_weights(
    tmp_path: Path, make_llama: Callable[..., Any], tied: bool
) -> None:
    make_llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    section = ModelConfig(path=str(tmp_path))
    skeleton, model = load_skeleton(section), load_model(section)

    def layout(of: Any) -> list[tuple[str, torch.Size]]:
        return [(name, parameter.shape) for name, parameter in of.named_parameters()]

    assert layout(skeleton) == layout(model)
    assert [n for n, _ in skeleton.named_modules()] == [n for n, _ in model.named_modules()]
    assert count_parameters(skeleton) == count_parameters(model)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}


def test_a_bare_architecture_is_counted_without_weights() -> None:
    """The architecture is LLaMA-7B, from which the paper's budgets are computed."""
    skeleton = load_skeleton(ModelConfig(architecture={"model_type": "llama"}))
    assert count_parameters(skeleton) == 6_738_415_616
    assert skeleton.model.layers[31].self_attn.q_proj.weight.shape == (4096, 4096)


def test_the_values_of_an_architecture_are_used() -> None:
    small = {"model_type": "llama", "num_hidden_layers": 1, "tie_word_embeddings": True}
    whole = load_skeleton(ModelConfig(architecture={**small, "tie_word_embeddings": False}))
    tied = load_skeleton(ModelConfig(architecture=small))
    assert count_parameters(whole) - count_parameters(tied) == 32_000 * 4096


@pytest.mark.parametrize("load", [load_model, load_tokenizer, model_identity])
def test_a_bare_architecture_cannot_be_run(load: Any) -> None:
    error = refused(lambda: load(ModelConfig(architecture={"model_type": "llama"})))
    assert (error.field, error.got) == ("model.architecture", "llama")


@pytest.mark.parametrize(
    "architecture", [{"model_type": "lama"}, {"model_type": "vit"}], ids=["unknown", "no text"]
)
def test_an_architecture_that_is_no_causal_model_is_refused(architecture: dict[str, Any]) -> None:
    error = refused(lambda: load_skeleton(ModelConfig(architecture=architecture)))
    assert (error.field, error.got) == ("model.architecture", architecture)


@pytest.mark.parametrize("load", EVERYTHING)
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, load: Any) -> None:
    missing = str(tmp_path / "missing")
    error = refused(lambda: load(ModelConfig(path=missing)))
    assert (error.field, error.got) == ("model.path", missing)


@pytest.mark.parametrize("load", [load_model, load_tokenizer, load_skeleton])
def test_an_empty_folder_is_refused(tmp_path: Path, load: Any) -> None:
    error = refused(lambda: load(ModelConfig(path=str(tmp_path))))
    assert (error.field, error.got) == ("model", str(tmp_path))
    assert "cannot be loaded" in error.rule


@pytest.mark.parametrize("load", EVERYTHING)
def test_a_hub_name_that_cannot_be_reached_is_refused(load: Any) -> None:
    error = refused(lambda: load(ModelConfig(path="nobody/nothing")))
    assert (error.field, error.got) == ("model", "nobody/nothing")
    assert "offline, use a local folder" in error.fix


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert refused(lambda: load_model(ModelConfig(path=str(folder)))).got == str(folder)


def test_a_broken_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    for load in (load_model, load_skeleton):
        assert refused(lambda load=load: load(ModelConfig(path=str(folder)))).got == str(folder)


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "vit"}')
    for load in (load_model, load_skeleton):
        error = refused(lambda load=load: load(ModelConfig(path=str(folder))))
        assert error.field == "model"


def test_a_gguf_file_that_is_not_there_is_refused(folder: Path) -> None:
    error = refused(lambda: load_model(ModelConfig(path=str(folder), gguf_file="none.gguf")))
    assert "none.gguf" in error.rule


class Harmless:
    """A pickle of it creates a file when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return open, (str(self.place), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_would_run_code_are_refused_unread(
    model_folder: Path, tmp_path: Path, zipped: bool
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file, place = folder / "pytorch_model.bin", tmp_path / "created"
    torch.save(weights, file, _use_new_zipfile_serialization=zipped)
    load_model(ModelConfig(path=str(folder)))
    torch.save({**weights, "a": Harmless(place)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="would run code when it is read"):
        load_model(ModelConfig(path=str(folder)))
    assert not place.exists()
