"""A selection of a few blocks of a tiny Llama."""

from __future__ import annotations

from typing import Any

import torch

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
