"""The identity of an adapter's base model: its name, its architecture, its weights at the blocks.

Weights are compared in bfloat16, so a base model is recognised in float32 and in bfloat16.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.quantised import is_quantised

_NUM_ROWS = 4
_REMEMBERED = "base_rows_sha256"  # an attribute of a quantised linear

_ARCHITECTURE_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_eps",
    "rope_parameters",
    "rope_theta",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "use_bias",
    "alibi",
    "multi_query",
    "new_decoder_architecture",
    "parallel_attn",
    "sliding_window",
    "use_sliding_window",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
)
"""The keys of a config that determine what the base model computes.

Other keys are ignored, because the next release of a library may add keys to a config.
"""


def config_sha256(config: Any) -> str | None:
    """The hash of the architecture in a config; None if the config has no known key.

    Args:
        config: A transformers config, or an object with attributes of the same names. A
            transformers config also has the attribute ``hidden_size`` if its own key is ``n_embd``.
    """
    text_config = getattr(config, "get_text_config", None)
    config = text_config() if callable(text_config) else config
    by_layer = _values_by_layer(config)
    values = {key: getattr(config, key, None) for key in _ARCHITECTURE_KEYS if key not in by_layer}
    values |= {key: value for key, value in by_layer.items() if key in _ARCHITECTURE_KEYS}
    # A library may or may not write defaults such as None or False, so these are ignored.
    stated = {key: value for key, value in values.items() if value}
    if not stated:
        return None
    text = json.dumps(stated, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _values_by_layer(config: Any) -> dict[str, Any]:
    """The keys whose values differ between layers (Gemma 4), with the values of single layers.

    transformers raises an error of its own if such a key is read as one value.
    """
    if not hasattr(config, "per_layer_config") or not hasattr(config, "to_dict"):
        return {}
    layers: dict[str, dict[str, Any]] = config.to_dict().get("per_layer_config") or {}
    keys = {key for own in layers.values() for key in own}
    return {key: {layer: own.get(key) for layer, own in layers.items()} for key in keys}


def name_or_path(model: nn.Module) -> str | None:
    """The name or path that transformers loaded a model from; None if it is not known."""
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def has_other_config(model: nn.Module, expected: str | None) -> bool:
    """Whether the architecture of a model differs from a recorded one, if both are known."""
    found = config_sha256(getattr(model, "config", None))
    return None not in (expected, found) and expected != found


def other_base(
    model: nn.Module, adapter: Path | str, difference: str, expected: str | None
) -> UserError:
    """The error for an adapter and a model that is not its base model.

    Args:
        model: The model.
        adapter: The directory of the adapter, or another name for it.
        difference: The name of what differs.
        expected: The name or path of the adapter's base model; None if it is not known.
    """
    return UserError(
        str(adapter),
        f"must be loaded on the base model it was trained on; the {difference} differs",
        got=name_or_path(model) or type(model).__name__,
        fix=f"load {expected or 'that model'} in float32 or bfloat16",
    )


def blocks_sha256(blocks: Mapping[str, Tensor]) -> str:
    """The hash of a base model's own values at an adapter's blocks.

    Args:
        blocks: Module name -> the blocks of the (O, I) weight, (M, L, L).
    """
    digest = hashlib.sha256()
    for _, values in sorted(blocks.items()):
        digest.update(tensor_bytes(values.to(torch.bfloat16)))
    return digest.hexdigest()


def rows_digest(module: nn.Module, parameter: str = "weight") -> str | None:
    """The hash of evenly spaced rows of a parameter, a few kilobytes of a large one.

    It is None for a parameter without values, and for a weight that was quantised without
    :func:`remember_rows`.
    """
    if remembered := getattr(module, _REMEMBERED, None):
        return str(remembered)
    tensor = module.get_parameter(parameter).detach()
    if tensor.is_meta or is_quantised(module):
        return None
    rows = tensor[:: max(1, len(tensor) // _NUM_ROWS)][:_NUM_ROWS].to(torch.bfloat16)
    return hashlib.sha256(f"{tuple(tensor.shape)} ".encode() + tensor_bytes(rows)).hexdigest()


def remember_rows(quantised: nn.Module, linear: nn.Module) -> None:
    """Makes a linear that will be quantised remember the rows of the weight in full precision."""
    setattr(quantised, _REMEMBERED, rows_digest(linear))


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor on any device, element by element."""
    tensor = tensor.detach().cpu().contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())
