"""Base models: a folder, a hub name, GGUF weights, the built-in one, or a bare architecture."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from smt_ray.artifacts.storage import Storage, local_copy
from smt_ray.builtin import MODEL_DIR
from smt_ray.errors import UserError

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx")


@contextmanager
def model_place(spec: dict[str, Any], *, weights: bool = True) -> Iterator[str]:
    """The folder or hub name of a model section (``ModelConfig.spec()``).

    A folder in a remote storage is copied here for the block's time.

    Args:
        spec: The config's ``model`` section as plain values.
        weights: Whether they are needed too.

    Raises:
        UserError: It is a bare architecture, which lies nowhere, or the remote folder is not there.
    """
    path = _named_place(spec)
    if "://" not in path:
        yield path
        return
    if not Storage(path).exists():
        raise UserError("model.path", "must be a folder that is there", got=path)
    # A GGUF file has the tokenizer and the configuration in it.
    needed = weights or spec.get("gguf_file")
    with local_copy(path, without=() if needed else _WEIGHTS) as folder:
        yield str(folder)


def _named_place(spec: dict[str, Any]) -> str:
    if spec.get("architecture"):
        raise UserError(
            "model.architecture",
            "has no weights and only serves counting",
            got=spec["architecture"].get("model_type"),
            fix="set model.path or model.builtin",
        )
    return str(MODEL_DIR) if spec.get("builtin") else str(spec["path"])


def import_transformers() -> None:
    """Imports what every model and tokenizer needs: seconds, where a model itself is small."""
    import transformers.modeling_utils  # noqa: F401


def load_model(
    spec: dict[str, Any], device: torch.device | str = "cpu", num_devices: int = 1
) -> nn.Module:
    """Loads the base model in evaluation mode.

    Args:
        spec: The config's ``model`` section as plain values.
        device: Where its weights go.
        num_devices: Above 1, its layers are spread over so many of that kind, all that this process
            sees; inputs go to the first, and outputs come from there.

    Raises:
        UserError: The model cannot be found or read, or has no causal language model class.
    """
    from transformers import AutoModelForCausalLM

    with model_place(spec) as path:
        model = explained(
            spec,
            lambda: AutoModelForCausalLM.from_pretrained(
                path,
                dtype=DTYPES[spec["dtype"]],
                attn_implementation=spec["attn_implementation"],
                **({"device_map": "balanced"} if num_devices > 1 else {}),
                **hub_options(spec),
            ),
        )
    _forget_gguf(model)
    if "://" in str(spec.get("path")):
        model.config._name_or_path = spec["path"]  # adapters say whose they are, not where it was
    return (model if num_devices > 1 else model.to(device)).eval()


def load_tokenizer(spec: dict[str, Any]) -> Any:
    """Loads the tokenizer, with EOS as padding where it has none.

    Raises:
        UserError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    with model_place(spec, weights=False) as path:
        tokenizer = explained(
            spec, lambda: AutoTokenizer.from_pretrained(path, **hub_options(spec))
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masked wherever it stands
    return tokenizer


def load_skeleton(spec: dict[str, Any]) -> nn.Module:
    """The model on the meta device: every name and shape, no weights.

    Raises:
        UserError: Its configuration cannot be found or read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if spec.get("architecture"):
        values = dict(spec["architecture"])
        config = explained(spec, lambda: AutoConfig.for_model(values.pop("model_type"), **values))
    else:
        with model_place(spec, weights=False) as path:
            config = explained(spec, lambda: AutoConfig.from_pretrained(path, **hub_options(spec)))
    with torch.device("meta"):
        model = explained(
            spec,
            lambda: AutoModelForCausalLM.from_config(
                config, trust_remote_code=spec["trust_remote_code"]
            ),
        )
    model.tie_weights()
    return model


def hub_options(spec: dict[str, Any]) -> dict[str, Any]:
    """What ``from_pretrained`` is told besides the place."""
    chosen = {name: spec.get(name) for name in ("revision", "gguf_file") if spec.get(name)}
    return {**chosen, "trust_remote_code": spec["trust_remote_code"]}


def _forget_gguf(model: nn.Module) -> None:
    """Dequantised weights are plain weights; what says otherwise would forbid saving them."""
    quantizer = getattr(model, "hf_quantizer", None)
    method = getattr(getattr(quantizer, "quantization_config", None), "quant_method", "")
    if "gguf" not in str(getattr(method, "value", method)):
        return
    for owner, names in (
        (model.config, ("quantization_config",)),
        (model, ("hf_quantizer", "quantization_method", "is_quantized")),
    ):
        for name in names:
            if name in vars(owner):
                delattr(owner, name)


def explained(spec: dict[str, Any], load: Any) -> Any:
    """What ``load()`` gives; a failure becomes a UserError that names the model."""
    bare = spec.get("architecture")
    path = "" if bare else _named_place(spec)
    if _looks_local(path) and "://" not in path and not Path(path).is_dir():
        raise UserError(
            "model.path", "must be a folder or a hub name", got=path, fix="check the path"
        )
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
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
