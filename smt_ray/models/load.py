"""Loading of base models and their tokenizers, with weights or without."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from smt_ray.config.model import ModelConfig
from smt_ray.imports import large_imports
from smt_ray.models.completeness import check_complete
from smt_ray.models.config import model_class, read_config
from smt_ray.models.place import explained, hub_options, model_place, named_place
from smt_ray.models.quantisation import check_quantisation, quantise

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def import_transformers() -> None:
    """Imports the part of transformers that every model and tokenizer needs, for some seconds."""
    with large_imports():
        import transformers.modeling_utils  # noqa: F401


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
    check_complete(named_place(model), loaded, found)
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
