"""The method of a saved adapter, found by the files in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from smt_ray.errors import UserError
from smt_ray.methods import full, lora, placed, smt
from smt_ray.methods.protocol import Method
from smt_ray.places.adapter import FILES, find_kind
from smt_ray.smt.adapter_files import is_smt_adapter
from smt_ray.smt.tensorfile import reading


def find_method(directory: Path) -> Method:
    """The method that loads the adapter in a folder.

    Raises:
        UserError: The folder holds no adapter of a known method, or several.
    """
    known = (lora.CONFIG_FILE, *FILES.values(), full.TENSORS_FILE)
    found = [name for name in known[:-1] if (directory / name).exists()]
    if full.file_rights(directory):
        found.append(full.TENSORS_FILE)
    if len(found) != 1:
        raise UserError(
            str(directory),
            f"must be an adapter's folder, which holds one of {', '.join(known)}",
            got=", ".join(sorted(file.name for file in directory.glob("*"))) or "no files",
            fix="name the folder that holds one of them",
        )
    if found == [lora.CONFIG_FILE]:
        return smt.SmtMethod() if is_smt_adapter(directory) else lora.LoraMethod()
    return full.FullMethod() if found == [full.TENSORS_FILE] else placed.PlacedMethod()


def method_name(directory: Path) -> str:
    """The name of the method in a config whose adapter a folder holds.

    Raises:
        UserError: The folder holds no adapter of a known method, or its config is damaged.
    """
    method = find_method(directory)
    if isinstance(method, lora.LoraMethod):
        path = directory / lora.CONFIG_FILE
        with reading(path, "LoRA adapter's config"):
            is_dora = json.loads(path.read_text(encoding="utf-8")).get("use_dora", False)
            return "dora" if is_dora else "lora"
    if isinstance(method, placed.PlacedMethod):
        return "sift" if find_kind(directory) == "element" else "smt"
    return "smt" if isinstance(method, smt.SmtMethod) else "full"
