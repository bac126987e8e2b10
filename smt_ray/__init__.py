"""Sparse Matrix Tuning of large language models on Ray.

Public names are imported on first use, so that ``import smt_ray`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "UserError": "smt_ray.errors",
    "RunConfig": "smt_ray.config.run",
    "load_config": "smt_ray.config.load",
    "BlockGrid": "smt_ray.smt.grid",
    "GradientAccumulator": "smt_ray.smt.gradients",
    "ScoreTable": "smt_ray.smt.scores",
    "block_statistics": "smt_ray.smt.scores",
    "dense_weight": "smt_ray.smt.linears",
    "find_eligible": "smt_ray.models.inspect",
    "Selection": "smt_ray.smt.selection",
    "select_blocks": "smt_ray.smt.selection",
    "SparseLinear": "smt_ray.smt.layers.linear",
    "apply_selection": "smt_ray.smt.model",
    "merge_and_unload": "smt_ray.smt.model",
    "unload": "smt_ray.smt.model",
    "refresh": "smt_ray.smt.model",
    "trainable_parameters": "smt_ray.smt.model",
    "print_trainable_parameters": "smt_ray.smt.model",
    "save_adapter": "smt_ray.smt.adapter",
    "load_adapter": "smt_ray.smt.adapter",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smt_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
