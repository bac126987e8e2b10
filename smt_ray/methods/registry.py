"""The methods, found by their name in a config or by the files of an adapter."""

from __future__ import annotations

from pathlib import Path

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.methods import full, lora, sift, smt
from smt_ray.methods.protocol import Method, MethodSettings
from smt_ray.sift.adapter import TENSORS_FILE as SIFT_FILE
from smt_ray.smt.adapter_files import is_smt_adapter

_SETTINGS: dict[str, type[MethodSettings]] = {
    "smt": smt.SmtSettings,
    "lora": lora.LoraSettings,
    "dora": lora.LoraSettings,
    "sift": sift.SiftSettings,
    "full": full.FullSettings,
}


def settings_of(config: RunConfig) -> type[MethodSettings]:
    """The type of the settings of the config's method."""
    return _SETTINGS[config.method]


def find_method(directory: Path) -> Method:
    """The method that loads the adapter in a folder.

    Raises:
        UserError: The folder holds no adapter of a known method.
    """
    if is_smt_adapter(directory):
        return smt.SmtMethod()
    if (directory / lora.CONFIG_FILE).exists():
        return lora.LoraMethod()
    if (directory / SIFT_FILE).exists():
        return sift.SiftMethod()
    if (directory / full.TENSORS_FILE).exists():
        return full.FullMethod()
    known = f"{lora.CONFIG_FILE}, {SIFT_FILE}, {full.TENSORS_FILE}"
    raise UserError(
        str(directory),
        f"must be an adapter's folder, which holds one of {known}",
        got=", ".join(sorted(file.name for file in directory.glob("*"))) or "no files",
        fix="name the folder that holds them",
    )
