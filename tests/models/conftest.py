"""A small model on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.builtin import MODEL_DIR


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses names on the hub at once, with or without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path, make_llama: Callable[..., Any]) -> Path:
    """A saved random Llama with the tokenizer of the built-in model."""
    make_llama().save_pretrained(tmp_path / "llama")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "llama" / file).write_bytes((MODEL_DIR / file).read_bytes())
    return tmp_path / "llama"
