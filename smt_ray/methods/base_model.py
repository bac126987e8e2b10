"""The record of an adapter's base model: its name, its architecture and a hash of a few rows.

Adapters of SMT hold the original values of their blocks. The other methods write this record beside
their files instead, and so does SMT on a quantised base. Rows are compared as bfloat16, so a base
model is recognised whether it is loaded in float32, in bfloat16 or, by our loader, quantised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from smt_ray.smt.base_identity import (
    config_sha256,
    has_other_config,
    name_or_path,
    other_base,
    rows_digest,
)
from smt_ray.smt.tensorfile import reading

FILE = "base_model.json"


def record_base(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """The record of a plain base model, as JSON values.

    Args:
        model: The base model, whose weights must be whole.
        names: The names of the parameters whose rows are hashed.
    """
    names = list(names)
    return {
        "name_or_path": name_or_path(model),
        "config_sha256": config_sha256(getattr(model, "config", None)),
        "parameters": names,
        "rows_sha256": _rows_sha256(model, names),
    }


def write_base(record: dict[str, Any], directory: Path) -> None:
    """Writes a record into the folder of an adapter."""
    (directory / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_base(directory: Path) -> dict[str, Any] | None:
    """The record in the folder of an adapter; None if there is none, as in peft's own.

    Raises:
        UserError: The record is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return None
    with reading(path, "record of a base model"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        names = {"name_or_path", "config_sha256", "parameters", "rows_sha256"}
        if missing := sorted(names - set(record)):
            raise ValueError(f"it lacks {missing[0]}")
        return record


def check_base(model: nn.Module, directory: Path) -> None:
    """Refuses a model on which an adapter was not trained.

    An adapter without a record, such as one that peft wrote, is accepted.

    Args:
        model: The plain model.
        directory: The folder of the adapter.

    Raises:
        UserError: The architecture or the weights differ, or the record is damaged.
    """
    record = read_base(directory)
    if record is None:
        return
    expected = (record["config_sha256"], record["rows_sha256"])
    names, base = list(record["parameters"]), record["name_or_path"]
    difference = None
    if has_other_config(model, expected[0]):
        difference = "config"
    elif missing := [name for name in names if not _has(model, name)]:
        difference = f"parameter {missing[0]}"
    elif not _has_rows(model, names, expected[1]):
        difference = "weight"
    if difference:
        raise other_base(model, directory, difference, base)


def _has_rows(model: nn.Module, names: Iterable[str], expected: str | None) -> bool:
    """Whether the rows are the recorded ones, as far as they can be compared."""
    found = _rows_sha256(model, names)
    return None in (expected, found) or found == expected


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_parameter(name)
    except AttributeError:
        return False
    return True


def _rows_sha256(model: nn.Module, names: Iterable[str]) -> str | None:
    """The hash of a few rows of each parameter.

    It is None for models without weights, and for weights that others have quantised.
    """
    digest = hashlib.sha256()
    for name in names:
        module, _, last = name.rpartition(".")
        of_rows = rows_digest(model.get_submodule(module), last)
        if of_rows is None:
            return None
        digest.update(f"{name} {of_rows}\n".encode())
    return digest.hexdigest()
