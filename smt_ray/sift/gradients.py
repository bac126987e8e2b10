"""The summed gradients of the warm-up: one file for each module, so that one is read at a time."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

_KIND = "summed gradient"


def file_of(module: str) -> str:
    """The name of a module's file."""
    return f"{module}.safetensors"


def write_gradient(gradient: Tensor, module: str, folder: Path) -> Path:
    """Writes the summed gradient of a module, (O, I) float32; returns the file."""
    path = folder / file_of(module)
    write_tensors(path, _KIND, {"gradient": gradient}, {"module": module})
    return path


def read_gradient(path: Path) -> Tensor:
    """Reads the summed gradient of a module.

    Raises:
        UserError: The file is missing, truncated or of another kind.
    """
    tensors, _ = read_tensors(path, _KIND)
    with reading(path, _KIND):
        return tensors["gradient"]
