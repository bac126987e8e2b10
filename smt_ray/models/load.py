"""Base models: a folder, a hub name, GGUF weights, the built-in one, or a bare architecture."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from smt_ray.artifacts.storage import Storage, local_copy
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.imports import large_imports
from smt_ray.models.completeness import check_complete
from smt_ray.models.quantisation import check_quantisation, quantise

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ATTENTION_ERRORS = "attention implementation|flash.?attention|kernels"
_OWN_KEYS = {
    "dtype": "set model.dtype",
    "torch_dtype": "set model.dtype",
    "attn_implementation": "set model.attn_implementation",
    "model_type": "set model.path or model.architecture",
}
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx")


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
    path = _named_place(model)
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


def _named_place(model: ModelConfig) -> str:
    if model.architecture:
        raise UserError(
            "model.architecture",
            "has no weights and can only be used for counting",
            got=model.architecture.get("model_type"),
            fix="set model.path or model.builtin",
        )
    return str(MODEL_DIR) if model.builtin else str(located(model).path)


def import_transformers() -> None:
    """Imports the part of transformers that every model and tokenizer needs, for some seconds."""
    with large_imports():
        import transformers.modeling_utils  # noqa: F401


def read_config(model: ModelConfig) -> Any:
    """The transformers config of a model.

    Raises:
        UserError: It cannot be found or read.
    """
    from transformers import AutoConfig

    if model.architecture:
        values = dict(model.architecture)
        config = explained(model, lambda: AutoConfig.for_model(values.pop("model_type"), **values))
    else:
        with model_place(model, weights=False) as path:
            config = explained(
                model, lambda: AutoConfig.from_pretrained(path, **hub_options(model))
            )
    _override(config, model.config_overrides)
    return config


def _override(config: Any, values: Mapping[str, Any], parent: str = "") -> None:
    """Replaces values of a config, and of its parts by nested values."""
    for key, value in values.items():
        name = f"{parent}{key}"
        if key in _OWN_KEYS or not hasattr(config, key):
            raise UserError(
                "model.config_overrides",
                "must name keys of the model's config.json"
                + (", and this one has a key of its own" if key in _OWN_KEYS else ""),
                got=name,
                fix=_OWN_KEYS.get(key, "look the key up in config.json"),
            )
        part = getattr(config, key)
        if isinstance(value, Mapping) and hasattr(part, "to_dict"):
            _override(part, value, f"{name}.")
        else:
            setattr(config, key, value)


def model_class(config: Any) -> Any:
    """The auto class of a config: that of causal language models, or of images and text.

    Some multimodal models have no causal language model class. They compute text rows with the same
    inputs and outputs.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    known = type(config) in AutoModelForCausalLM._model_mapping
    others = type(config) in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if others and not known else AutoModelForCausalLM


def load_model(
    model: ModelConfig, device: torch.device | str = "cpu", num_devices: int = 1
) -> nn.Module:
    """Loads the base model in evaluation mode.

    Args:
        model: The ``model`` section of a config.
        device: The device of its weights.
        num_devices: The number of devices, which must be all that this process sees. If it is above
            1, the layers are spread over them; inputs and outputs are on the first.

    Raises:
        UserError: The model cannot be found or read, or has no causal language model class.
    """
    from transformers import AutoModelForCausalLM

    auto, options = AutoModelForCausalLM, hub_options(model)
    # Reading the config of a GGUF file takes seconds, and all of them hold causal language models.
    if not model.gguf_file or model.config_overrides:
        config = read_config(model)
        auto, options = model_class(config), {**options, "config": config}
    with model_place(model) as path:
        loaded, found = explained(
            model,
            lambda: auto.from_pretrained(
                path,
                dtype=DTYPES[model.dtype],
                attn_implementation=model.attention,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported, and refused below
                **({"device_map": "balanced"} if num_devices > 1 else {}),
                **options,
            ),
        )
    check_complete(_named_place(model), loaded, found)
    _forget_gguf(loaded)
    if "://" in str(model.path):
        loaded.config._name_or_path = model.path  # instead of the folder of the copy
    if model.quantization != "none":
        check_quantisation(model.quantization)
        quantise(loaded, model.quantization, device, DTYPES[model.dtype])
    placed: nn.Module = (loaded if num_devices > 1 else loaded.to(device)).eval()
    return placed


def load_tokenizer(model: ModelConfig) -> Any:
    """Loads the tokenizer; EOS becomes the padding token if it has none.

    Raises:
        UserError: The tokenizer cannot be found or read.
    """
    tokenizer = read_tokenizer(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # any token will do, as padding is always masked
    return tokenizer


def read_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer as it is, to be written beside weights; see :func:`load_tokenizer`."""
    from transformers import AutoTokenizer

    with model_place(model, weights=False) as path:
        return explained(model, lambda: AutoTokenizer.from_pretrained(path, **hub_options(model)))


def load_skeleton(model: ModelConfig) -> nn.Module:
    """The model on the meta device, with every name and shape but without weights.

    Raises:
        UserError: Its configuration cannot be found or read.
    """
    config = read_config(model)
    auto = model_class(config)
    with torch.device("meta"):
        skeleton: Any = explained(
            model,
            lambda: auto.from_config(config, trust_remote_code=model.trust_remote_code),
        )
    skeleton.tie_weights()
    found: nn.Module = skeleton
    return found


@lru_cache(maxsize=1)  # every run of a comparison needs it, and reading a GGUF file takes seconds
def _kept_skeleton(model: str, _identity: str) -> nn.Module:
    return load_skeleton(ModelConfig.model_validate_json(model))


def shared_skeleton(model: ModelConfig, identity: Mapping[str, Any]) -> nn.Module:
    """The skeleton of a model, loaded once for all runs of the model. Callers must not change it.

    Args:
        model: The ``model`` section of a config.
        identity: The identity of the model; see :func:`smt_ray.models.inspect.model_identity`.

    Raises:
        UserError: Its configuration cannot be found or read.
    """
    return _kept_skeleton(model.model_dump_json(), json.dumps(identity))


def hub_options(model: ModelConfig) -> dict[str, Any]:
    """The keyword arguments of ``from_pretrained`` that a model section sets."""
    given = {"revision": model.revision, "gguf_file": model.gguf_file}
    chosen = {name: value for name, value in given.items() if value}
    return {**chosen, "trust_remote_code": model.trust_remote_code}


def _forget_gguf(model: nn.Module) -> None:
    """Removes the marks of GGUF, since dequantised weights are plain weights and can be saved."""
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


def explained(model: ModelConfig, load: Callable[[], Any]) -> Any:
    """Returns ``load()``.

    Raises:
        UserError: It failed; the error names the model.
    """
    bare = model.architecture
    path = "" if bare else _named_place(model)
    if _looks_local(path) and "://" not in path and not Path(path).is_dir():
        raise UserError(
            "model.path", "must be a folder or a hub name", got=path, fix="check the path"
        )
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if model.attention and re.search(_ATTENTION_ERRORS, reason, re.IGNORECASE):
            raise UserError(
                "model.attn_implementation",
                f"must be one that the model has here ({reason})",
                got=model.attention,
                fix="set it to auto, which takes what the model has",
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
