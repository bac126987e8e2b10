"""Models by the names that command lines give them."""

from __future__ import annotations

import re
from pathlib import Path

from smt_ray.builtin import BUILTIN
from smt_ray.errors import UserError

_HUB_MODEL = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def model_keys(model: str) -> dict[str, str]:
    """The keys of the config's model section for a model that a command line names.

    Args:
        model: A model's folder or URI, a GGUF file, a hub name, or ``builtin:tiny``.

    Raises:
        UserError: It is none of these, or a folder without a model.
    """
    if model.startswith(BUILTIN):
        return {"builtin": model.removeprefix(BUILTIN)}
    path = Path(model).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return {"path": str(path.parent), "gguf_file": path.name}
    is_place = "://" in model or path.is_dir()
    if not is_place and not _HUB_MODEL.fullmatch(model):
        raise UserError(
            "--model", "must be a folder, a GGUF file, a hub name or builtin:tiny", got=model,
            fix="check the path",
        )  # fmt: skip
    if path.is_dir() and not (path / "config.json").is_file():
        ggufs = ", ".join(sorted(file.name for file in path.glob("*.gguf")))
        raise UserError(
            "--model", "must be a folder with a config.json", got=model,
            fix=f"name its GGUF file ({ggufs})" if ggufs else "check the path",
        )  # fmt: skip
    return {"path": model}
