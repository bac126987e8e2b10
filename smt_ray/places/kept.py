"""What a warm-up keeps for each module: one file each, so that one is in memory at a time."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

_KIND = "values of a warm-up"


def file_of(module: str) -> str:
    """The name of a module's file."""
    return f"{module}.safetensors"


def write_kept(values: Tensor, module: str, folder: Path) -> Path:
    """Writes the values of a module; returns the file.

    They are its summed gradient, (O, I), the statistics of its columns, (4, I), or the sums of the
    absolute inputs of its columns, (1, I).
    """
    path = folder / file_of(module)
    write_tensors(path, _KIND, {"values": values}, {"module": module})
    return path


def read_kept(path: Path) -> Tensor:
    """Reads the values of a module.

    Raises:
        UserError: The file is missing, truncated or of another kind.
    """
    tensors, _ = read_tensors(path, _KIND)
    with reading(path, _KIND):
        return tensors["values"]
