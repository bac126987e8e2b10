"""Tokenised rows on disk: the file of the tokens stage."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from smt_ray.data.encoding import EncodedRows

_FIELDS = ("input_ids", "offsets", "prompt_lengths", "positions")
_IS_TARGET = "is_target"  # only conversations have it


def save_tokens(path: Path, sets: dict[str, EncodedRows]) -> None:
    """Writes named sets of rows (training, validation) to one file."""
    tensors: dict[str, torch.Tensor] = {
        f"{name}.{field}": getattr(rows, field) for name, rows in sets.items() for field in _FIELDS
    }
    for name, rows in sets.items():
        if rows.is_target is not None:
            tensors[f"{name}.{_IS_TARGET}"] = rows.is_target
    save_file(tensors, path)


def load_tokens(path: Path, name: str) -> EncodedRows | None:
    """Reads one set of rows; None if the file has no set of that name."""
    tensors = load_file(path)
    if f"{name}.offsets" not in tensors:
        return None
    fields = {field: tensors[f"{name}.{field}"] for field in _FIELDS}
    return EncodedRows(**fields, is_target=tensors.get(f"{name}.{_IS_TARGET}"))
