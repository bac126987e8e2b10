"""Methods: by their config name to train, by what lies in a folder to use an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smt_ray.errors import UserError
from smt_ray.methods import full, lora
from smt_ray.methods.protocol import Method
from smt_ray.methods.smt import SmtMethod
from smt_ray.smt.adapter import CONFIG_FILE as SMT_CONFIG
from smt_ray.smt.selection import Selection


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """The method that a config trains with.

    Args:
        name: The config's ``method``.
        settings: For smt the path of its ``selection``; for lora and dora the rest of
            :class:`smt_ray.methods.lora.LoraSettings`; for full nothing.
    """
    if name == "smt":
        return SmtMethod(Selection.load(settings["selection"]))
    if name == "full":
        return full.FullMethod()
    assert name in ("lora", "dora"), name  # the config allows nothing else
    return lora.LoraMethod(lora.LoraSettings(**settings, use_dora=name == "dora"))


def find_method(directory: Path) -> Method:
    """The method that can load an adapter, by its files.

    Raises:
        UserError: The folder holds no adapter that we know.
    """
    if (directory / SMT_CONFIG).exists():
        return SmtMethod()
    if (directory / lora.CONFIG_FILE).exists():
        return lora.LoraMethod()
    if (directory / full.TENSORS_FILE).exists():
        return full.FullMethod()
    known = ", ".join((SMT_CONFIG, lora.CONFIG_FILE, full.TENSORS_FILE))
    raise UserError(
        str(directory),
        f"must be an adapter's folder, which has one of {known}",
        got=", ".join(sorted(file.name for file in directory.glob("*"))) or "no files",
        fix="name the folder that holds them",
    )
