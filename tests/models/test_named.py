"""Claims about models by the names that command lines give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.errors import UserError
from smt_ray.models.named import model_keys


def test_each_kind_of_name_becomes_the_keys_of_a_config(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    gguf = tmp_path / "small.gguf"
    gguf.write_bytes(b"")
    assert model_keys(str(folder)) == {"path": str(folder)}
    assert model_keys(str(gguf)) == {"path": str(tmp_path), "gguf_file": "small.gguf"}
    assert model_keys("s3://bucket/model") == {"path": "s3://bucket/model"}
    assert model_keys("owner/name") == {"path": "owner/name"}
    assert model_keys("builtin:tiny") == {"builtin": "tiny"}


def test_what_is_no_model_is_refused_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"config\.json.*small\.gguf"):
        model_keys(str(tmp_path))
    with pytest.raises(UserError, match="builtin:tiny"):
        model_keys("/no/such/place")
