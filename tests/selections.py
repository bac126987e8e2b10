"""Selections of a few blocks, elements or columns of a tiny Llama."""

from __future__ import annotations

from typing import Any

import torch

from smt_ray.places.columns import random_columns, select_columns
from smt_ray.places.elements import select_elements
from smt_ray.places.selection import PlaceSelection
from smt_ray.smt.selection import Selection, select_by_scores


def choose(model: Any, *, num_blocks: int = 6, seed: int = 5) -> Selection:
    """A few blocks of 8 x 8 over q, k and v, drawn by a seed."""
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.rand(m.out_features // 8, m.in_features // 8, generator=generator)
        for name, m in model.named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj"))
    }
    return select_by_scores(
        scores, block_size=8, num_base_parameters=sum(p.numel() for p in model.parameters()),
        num_blocks=num_blocks, score="random",
    )  # fmt: skip


def choose_elements(model: Any, *, num_elements: int = 300, seed: int = 5) -> PlaceSelection:
    """Elements of q, k and v, by gradients that are drawn by a seed."""
    generator, shapes = torch.Generator().manual_seed(seed), _shapes(model)
    gradients = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return select_elements(
        gradients.__getitem__, shapes, num_elements, scope="global",
        num_base_parameters=sum(p.numel() for p in model.parameters()),
    )  # fmt: skip


def choose_columns(model: Any, *, num_parameters: int = 300, seed: int = 5) -> PlaceSelection:
    """Columns of q, k and v, drawn by a seed."""
    shapes = _shapes(model)
    return select_columns(
        random_columns(shapes, seed), shapes, [(list(shapes), num_parameters)],
        num_base_parameters=sum(p.numel() for p in model.parameters()), score="random",
        scope="global",
    )  # fmt: skip


def _shapes(model: Any) -> dict[str, tuple[int, int]]:
    return {
        name: (m.out_features, m.in_features)
        for name, m in model.named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj"))
    }
