"""The directory of an adapter: the trained blocks, their places, and the base model."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.linears import as_dense, dense_weight
from smt_ray.smt.model import (
    ORIGIN_ATTRIBUTE,
    Model,
    make_sparse,
    sparse_modules,
    unload,
)
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

TENSORS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "smt_config.json"
FORMAT_VERSION = 1

_KIND = "adapter"
_BASE_KEYS = ("name_or_path", "config_sha256", "blocks_sha256")
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


def save_adapter(model: nn.Module, directory: str | os.PathLike[str]) -> Path:
    """Writes the blocks of a model to ``adapter_model.safetensors`` and ``smt_config.json``.

    Blocks and indices are those of (out_features, in_features) weights for linears of all classes.

    Raises:
        UserError: The model has no sparse layers.
    """
    layers = sparse_modules(model)
    if not layers:
        raise UserError("model", "must have sparse layers", got=type(model).__name__)
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{name}.blocks"] = as_dense(layer.blocks.detach().cpu(), layer.transposed)
        tensors[f"{name}.indices"] = layer.layout.dense_indices
    write_tensors(directory / TENSORS_FILE, _KIND, tensors, {})
    config = {
        "format": "smt",
        "format_version": FORMAT_VERSION,
        "block_size": next(iter(layers.values())).block_size,
        "num_blocks": sum(len(layer.layout.rows) for layer in layers.values()),
        "target_modules": {
            name: [layer.out_features, layer.in_features] for name, layer in layers.items()
        },
        "selection": getattr(model, ORIGIN_ATTRIBUTE, {}),
        "base": {
            "name_or_path": name_or_path(model),
            "config_sha256": config_sha256(getattr(model, "config", None)),
            "blocks_sha256": _blocks_sha256(
                as_dense(layer.original_blocks, layer.transposed) for layer in layers.values()
            ),
        },
        "tensors_sha256": _tensors_sha256(tensors),
    }
    # The config is written last and has the tensors' hash, so an incomplete adapter is noticed.
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return directory


def load_adapter(
    model: Model,
    directory: str | os.PathLike[str],
    *,
    trainable: bool = False,
    check_base: bool = True,
) -> Model:
    """Puts a saved adapter on its base model, in place; the model's own adapter is unloaded first.

    Args:
        model: The base model, plain or with another adapter.
        directory: The directory that :func:`save_adapter` wrote.
        trainable: Whether the blocks are trainable; otherwise they are frozen too.
        check_base: Whether another base model is an error. Its config and its weights at the blocks
            are compared. Weights are compared in bfloat16, so a base model may be loaded in float32
            or bfloat16.

    Raises:
        UserError: Files are missing, truncated or edited, or the base is another model. In the
            latter case the model remains a plain base model.
    """
    directory = Path(directory)
    adapter = _read(directory)
    if sparse_modules(model):
        unload(model)
    difference = _difference(model, adapter) if check_base else None
    if difference:
        raise other_base(model, directory, difference, adapter.base["name_or_path"])
    make_sparse(model, adapter.block_size, adapter.shapes, adapter.indices, adapter.origin)
    for name, layer in sparse_modules(model).items():
        layer.blocks.data.copy_(as_dense(adapter.blocks[name], layer.transposed))
        layer.blocks.requires_grad_(trainable)
        layer.refresh()
    return model


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
    model: nn.Module, directory: Path, difference: str, expected: str | None
) -> UserError:
    """The error for an adapter and a model that is not its base model.

    Args:
        model: The model.
        directory: The directory of the adapter.
        difference: The name of what differs.
        expected: The name or path of the adapter's base model; None if it is not known.
    """
    return UserError(
        str(directory),
        f"must be loaded on the base model it was trained on; the {difference} differs",
        got=name_or_path(model) or type(model).__name__,
        fix=f"load {expected or 'that model'} in float32 or bfloat16",
    )


@dataclass(frozen=True, eq=False)
class _Adapter:
    """The contents of an adapter's directory."""

    block_size: int
    shapes: dict[str, tuple[int, int]]
    indices: dict[str, Tensor]
    blocks: dict[str, Tensor]
    origin: dict[str, Any]
    base: dict[str, str | None]


def _read(directory: Path) -> _Adapter:
    path = directory / CONFIG_FILE
    with reading(path, "adapter's config"):
        config = json.loads(path.read_text(encoding="utf-8"))
        version = (config["format"], config["format_version"])
        if version != ("smt", FORMAT_VERSION):
            fix = "use the smt_ray that wrote it"
            raise UserError(str(path), f"must be of format {FORMAT_VERSION}", got=version, fix=fix)
        tensors, _ = read_tensors(directory / TENSORS_FILE, _KIND)
        if _tensors_sha256(tensors) != config["tensors_sha256"]:
            raise UserError(
                str(directory / TENSORS_FILE),
                f"must hold the blocks that {CONFIG_FILE} was written for",
                fix="save the adapter again, or copy both files again",
            )
        shapes = {name: (int(o), int(i)) for name, (o, i) in config["target_modules"].items()}
        adapter = _Adapter(
            block_size=config["block_size"],
            shapes=shapes,
            indices={name: tensors.pop(f"{name}.indices") for name in shapes},
            blocks={name: tensors.pop(f"{name}.blocks") for name in shapes},
            origin=dict(config["selection"]),
            base={key: config["base"][key] for key in _BASE_KEYS},
        )
        num_blocks = sum(len(indices) for indices in adapter.indices.values())
        sizes = {(b.shape[1], b.shape[2]) for b in adapter.blocks.values()}
        if tensors or num_blocks != config["num_blocks"] or sizes != {(adapter.block_size,) * 2}:
            raise ValueError("it does not agree with the tensors beside it")
        return adapter


def _difference(model: nn.Module, adapter: _Adapter) -> str | None:
    """The difference between a plain model and the adapter's base model; None if there is none."""
    if has_other_config(model, adapter.base["config_sha256"]):
        return "config"
    modules = dict(model.named_modules())
    originals: list[Tensor] = []
    for name, shape in adapter.shapes.items():
        module = modules.get(name)
        if module is None or not isinstance(getattr(module, "weight", None), Tensor):
            return f"weight of {name}"
        weight = dense_weight(module)
        if weight.shape != shape:
            return f"weight of {name}"
        grid = BlockGrid(shape[0], shape[1], adapter.block_size)
        indices = adapter.indices[name].to(weight.device)
        originals.append(grid.gather(weight.detach(), indices).cpu())
    if _blocks_sha256(originals) != adapter.base["blocks_sha256"]:
        return "weight at the adapter's blocks"
    return None


def _blocks_sha256(blocks: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(_bytes(block.to(torch.bfloat16)))
    return digest.hexdigest()


def _tensors_sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size())
