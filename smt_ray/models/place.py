"""Where a base model is, and the errors of reading it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smt_ray.artifacts.storage import Storage, local_copy
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError

_ATTENTION_ERRORS = "attention implementation|flash.?attention|kernels"
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
_LONGEST = 300  # characters of a reason


@contextmanager
def model_place(model: ModelConfig, *, weights: bool = True) -> Iterator[str]:
    """The local folder or the hub name of a model.

    A remote folder is copied to this machine; the copy exists while the context is open.

    Args:
        model: The ``model`` section of a config.
        weights: Whether the weights are needed, too.

    Raises:
        UserError: The model is a bare architecture, or the remote folder does not exist.
    """
    path = named_place(model)
    if "://" not in path:
        yield path
        return
    if not Storage(path).exists():
        raise UserError("model.path", "must be an existing folder", got=path)
    # A GGUF file contains the tokenizer and the configuration.
    needed = weights or model.gguf_file
    with local_copy(path, without=() if needed else _WEIGHTS) as folder:
        yield str(folder)


def located(model: ModelConfig) -> ModelConfig:
    """The section with an absolute path, if it names a local folder.

    It can then be used in other processes, whose working directories differ.
    """
    if model.path and (folder := Path(model.path).expanduser()).is_dir():
        return model.at(str(folder.absolute()))
    return model


def named_place(model: ModelConfig) -> str:
    """The folder, URI or hub name of a model.

    Raises:
        UserError: The model is a bare architecture.
    """
    if model.architecture:
        raise UserError(
            "model.architecture",
            "has no weights and can only be used for counting",
            got=model.architecture.get("model_type"),
            fix="set model.path or model.builtin",
        )
    return str(MODEL_DIR) if model.builtin else str(located(model).path)


def hub_options(model: ModelConfig) -> dict[str, Any]:
    """The keyword arguments of ``from_pretrained`` that a model section sets."""
    given = {"revision": model.revision, "gguf_file": model.gguf_file}
    chosen = {name: value for name, value in given.items() if value}
    return {**chosen, "trust_remote_code": model.trust_remote_code}


def explained(model: ModelConfig, load: Callable[[], Any]) -> Any:
    """Returns ``load()``.

    Raises:
        UserError: It failed; the error names the model.
    """
    bare = model.architecture
    path = "" if bare else named_place(model)
    if _looks_local(path) and "://" not in path and not Path(path).is_dir():
        raise UserError(
            "model.path", "must be a folder or a hub name", got=path, fix="check the path"
        )
    try:
        return load()
    except UserError:
        raise
    # transformers checks few values itself: others fail anywhere in the model's code.
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        if model.attention and re.search(_ATTENTION_ERRORS, reason, re.IGNORECASE):
            raise UserError(
                "model.attn_implementation",
                f"must be one that the model has here ({reason})",
                got=model.attention,
                fix="set it to auto, which takes what the model has",
            ) from error
        if "Weights only load failed" in reason:
            raise UserError(
                "model",
                "has a file of weights that would run code when it is read; such files are refused",
                got=path,
                fix="use a model whose weights are safetensors files",
            ) from error
        raise UserError(
            "model.architecture" if bare else "model",
            f"cannot be loaded ({reason})",
            got=bare or path,
            fix="check its model_type and values"
            if bare
            else "check model.path, revision and gguf_file; offline, use a local folder",
        ) from error


def _looks_local(path: str) -> bool:
    return path.startswith((".", "/", "~")) or path.count("/") > 1
