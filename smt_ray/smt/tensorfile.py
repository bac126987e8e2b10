"""Safetensors files with a JSON header, in which tables, selections and adapters are saved."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.file_rights import save_file

FORMAT_VERSION = 1
_HEADER_KEY = "smt_ray"


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns all errors in reading a file into a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(str(path), f"must be a {kind}", got="no such file") from error
    except (OSError, SafetensorError, LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            str(path),
            f"must be a whole and unedited {kind}",
            got=f"{type(error).__name__}: {error}",
            fix="make the file again",
        ) from error


def write_tensors(
    path: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
) -> None:
    """Writes tensors with a JSON header, through a temporary file, so the file is always complete.

    The file is replaced and not written into, because loaded tensors may be mapped to it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # There is one key, because safetensors writes several keys in no fixed order, and equal
    # contents must be equal bytes.
    content = {"kind": kind, "version": FORMAT_VERSION, "header": dict(header)}
    metadata = {_HEADER_KEY: json.dumps(content)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)


def read_tensors(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors, on the CPU, and the header of a file.

    Raises:
        UserError: The file is missing, truncated, of another kind or of another version.
    """
    path = Path(path)
    with reading(path, kind), safe_open(path, framework="pt") as file:
        header = _header(file, path, kind)
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def read_header(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Reads the header of a file alone.

    Raises:
        UserError: The file is missing, truncated, of another kind or of another version.
    """
    path = Path(path)
    with reading(path, kind), safe_open(path, framework="pt") as file:
        return _header(file, path, kind)


def share_file(stem: str, share: int, num_shares: int) -> str:
    """The name of the file of a share."""
    if num_shares == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{share + 1:05d}-of-{num_shares:05d}.safetensors"


class SavedTensors(Mapping[str, Tensor]):
    """The tensors of safetensors files, each of which is read when it is asked for.

    Args:
        files: The files.
        suffix: The end of the names of the tensors to read, which is not part of their keys.
    """

    def __init__(self, files: Sequence[Path], suffix: str = "") -> None:
        self._suffix = suffix
        self._places: dict[str, Path] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.endswith(suffix)]  # noqa: SIM118
                self._places |= {name.removesuffix(suffix): path for name in names}

    def __getitem__(self, name: str) -> Tensor:
        """Reads a tensor."""
        with safe_open(self._places[name], framework="pt") as file:
            found: Tensor = file.get_tensor(f"{name}{self._suffix}")
            return found

    def only(self, names: Collection[str]) -> SavedTensors:
        """Some of the tensors."""
        found = copy.copy(self)
        found._places = {name: place for name, place in self._places.items() if name in names}
        return found

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, without reading them."""
        found = {}
        for path in sorted(set(self._places.values())):
            with safe_open(path, framework="pt") as file:
                for name in (name for name, place in self._places.items() if place == path):
                    shape = file.get_slice(f"{name}{self._suffix}").get_shape()
                    found[name] = tuple(shape)
        return found

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._places)

    def __len__(self) -> int:
        """The number of tensors."""
        return len(self._places)


def _header(file: Any, path: Path, kind: str) -> dict[str, Any]:
    content = json.loads((file.metadata() or {}).get(_HEADER_KEY, "{}"))
    found = (content.get("kind"), content.get("version"))
    if found != (kind, FORMAT_VERSION):
        rule = f"must be a {kind} of format version {FORMAT_VERSION}"
        raise UserError(str(path), rule, got=found)
    header: dict[str, Any] = content["header"]
    return header
