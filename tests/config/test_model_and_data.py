"""The ``model`` section names the same weights in every process."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.config.load import load_config
from smt_ray.config.model import ModelConfig
from smt_ray.models.place import located


@pytest.mark.parametrize("path", ["models/mine", "./models/mine", "~/models/mine"])
def test_a_local_model_is_handed_to_workers_by_its_absolute_path(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of Ray Train run in another folder."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_config(None, [f"model.path={path}", "model.builtin=null"])
    assert located(config.model).path == str(tmp_path / "models" / "mine")
    assert config.semantic_tree()["model"]["path"] == path  # names are the same on every machine


def test_a_model_that_is_no_local_folder_is_handed_on_as_it_is() -> None:
    config = load_config(None, ["model.path=owner/name", "model.builtin=null"])
    assert located(config.model) == config.model


def test_other_weights_of_the_same_architecture_keep_how_a_model_is_loaded() -> None:
    kept = {"dtype": "bfloat16", "attn_implementation": "eager", "trust_remote_code": True}
    base = ModelConfig(path="owner/name", revision="v2", gguf_file="m.gguf", **kept)
    assert base.replaced_by("s3://bucket/model") == ModelConfig(path="s3://bucket/model", **kept)
    assert ModelConfig(builtin="tiny").replaced_by("/here") == ModelConfig(path="/here")


def test_the_same_files_at_another_place_keep_their_names() -> None:
    base = ModelConfig(path="models/mine", gguf_file="m.gguf")
    assert base.at("/there") == ModelConfig(path="/there", gguf_file="m.gguf")


def test_a_model_has_a_name_wherever_it_comes_from() -> None:
    assert ModelConfig(path="owner/name").name == "owner/name"
    assert ModelConfig(builtin="tiny").name == "tiny"
    assert ModelConfig(architecture={"model_type": "llama"}).name == "llama"
