"""Safetensors files with a JSON header, in which tables, selections and adapters are saved."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smt_ray.errors import UserError

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


def _header(file: Any, path: Path, kind: str) -> dict[str, Any]:
    content = json.loads((file.metadata() or {}).get(_HEADER_KEY, "{}"))
    found = (content.get("kind"), content.get("version"))
    if found != (kind, FORMAT_VERSION):
        rule = f"must be a {kind} of format version {FORMAT_VERSION}"
        raise UserError(str(path), rule, got=found)
    header: dict[str, Any] = content["header"]
    return header
