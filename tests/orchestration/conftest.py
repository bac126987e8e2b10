"""Small configs: of random weights for plans, of the built-in model for real runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import apply_overrides, validate_config
from smt_ray.config.run import RunConfig


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like LLM-Adapters, of made-up rows."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"instruction": f"Is {i} even?", "output": f"the answer is {answer}", "answer": answer}
        for i in range(30)
        for answer in [str(i % 2 == 0).lower()]
    ]
    (folder / "train.json").write_text(json.dumps(rows[:20]))
    (folder / "dataset" / "boolq").mkdir(parents=True)
    (folder / "dataset" / "boolq" / "test.json").write_text(json.dumps(rows[20:]))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]) -> Path:
    """A tiny Llama on disk, without a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_llama().save_pretrained(folder)
    return folder


@pytest.fixture
def make_config(tmp_path: Path, rows_folder: Path, model_folder: Path) -> Callable[..., RunConfig]:
    """A config on those, with ``key.sub=value`` overrides."""

    def make(*overrides: str) -> RunConfig:
        values: dict[str, Any] = {
            "name": "small",
            "storage": str(tmp_path / "storage"),
            "model": {"path": str(model_folder)},
            "data": {"dir": str(rows_folder), "train": ["train.json"], "validation_rows": 2},
            "selection": {"block_size": 8, "budget": 0.05},
            "evaluation": {"tasks": ["boolq"], "base_likelihood": True},
        }
        return validate_config(apply_overrides(values, overrides))

    return make
