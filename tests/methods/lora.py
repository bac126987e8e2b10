"""A LoRA or DoRA method, and helpers that tune a model and compute its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from smt_ray.methods.lora import LoraMethod, LoraSettings

Make = Callable[..., Any]
TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
IDS = torch.arange(20).view(2, 10)


def make_method(name: str, **changes: Any) -> LoraMethod:
    settings = LoraSettings(
        rank=4, alpha=8, dropout=0.3, target_modules=TARGETS, use_dora=name == "dora", seed=3
    )
    return LoraMethod(replace(settings, **changes))


def tuned(method: Any, model: Any, seed: int = 1) -> dict[str, torch.Tensor]:
    """Changes the trained parameters, as an engine would; returns their values in fp32."""
    generator, values = torch.Generator().manual_seed(seed), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            values[name] = parameter.detach().float() + 0.05 * noise
            parameter.data.copy_(values[name])
    return values


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found
