"""Safetensors files with the rights that the umask leaves.

safetensors itself makes files that only their owner can read, whatever the umask is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file as _save_file
from torch import Tensor


def save_file(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors as ``safetensors.torch.save_file`` does, with a new file's usual rights.

    A file that is there keeps its rights.
    """
    place = Path(path)
    place.touch()
    rights = place.stat().st_mode
    _save_file(dict(tensors), place, None if metadata is None else dict(metadata))
    place.chmod(rights)


def give_usual_rights(folder: str | Path) -> None:
    """Gives the safetensors files of a folder that another library wrote a new file's rights."""
    for place in Path(folder).glob("*.safetensors"):
        beside = place.with_name(f".{place.name}.rights")
        beside.touch()
        place.chmod(beside.stat().st_mode)
        beside.unlink()
