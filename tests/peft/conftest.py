"""A small Llama with selected blocks, for the tests of the tuner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from smt_ray.peft import SmtConfig
from tests.selections import choose


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]) -> Path:
    """The folder of the base model."""
    folder = tmp_path_factory.mktemp("base")
    make_llama().save_pretrained(folder)
    return folder


@pytest.fixture
def load(base: Path) -> Callable[..., Any]:
    """Loads the base model."""

    def load(**options: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(base, **options)

    return load


@pytest.fixture
def make_config(load: Callable[..., Any]) -> Callable[..., SmtConfig]:
    """Makes the config of random blocks of 8 x 8 in q, k and v."""

    def make(num_blocks: int = 6, seed: int = 5, **options: Any) -> SmtConfig:
        selection = choose(load(), num_blocks=num_blocks, seed=seed)
        return SmtConfig.from_selection(selection, task_type="CAUSAL_LM", **options)

    return make


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Token ids and labels, (2, 9)."""
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids}


@pytest.fixture
def train(batch: dict[str, torch.Tensor]) -> Callable[..., list[float]]:
    """Trains a few steps and returns the losses."""

    def train(model: Any, num_steps: int = 3) -> list[float]:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        losses = []
        for _ in range(num_steps):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return train


@pytest.fixture
def tuned(load: Callable[..., Any], make_config: Callable[..., SmtConfig], train: Callable) -> Any:
    """A peft model that was trained for a few steps."""
    model = get_peft_model(load(), make_config())
    train(model)
    return model
