"""An adapter directory: the trained blocks, where they belong, and which base model they are of."""

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
"""What a base model's config says of what it computes, and not of how it is loaded and used.

A list of what counts: a library's next release may write keys into a config that no list of what
does not count could name.
"""


def save_adapter(model: nn.Module, directory: str | os.PathLike[str]) -> Path:
    """Writes a model's blocks to a directory: ``adapter_model.safetensors``, ``smt_config.json``.

    Raises:
        UserError: The model has no sparse layers.
    """
    layers = sparse_modules(model)
    if not layers:
        raise UserError("model", "must have sparse layers", got=type(model).__name__)
    directory = Path(directory)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"{name}.blocks"] = layer.blocks.detach().cpu()
        tensors[f"{name}.indices"] = layer.indices.cpu()
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
            "blocks_sha256": _blocks_sha256(layer.original_blocks for layer in layers.values()),
        },
        "tensors_sha256": _tensors_sha256(tensors),
    }
    # Written last: it vouches for the tensors, so an adapter that was cut off is noticed.
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return directory


def load_adapter(
    model: Model,
    directory: str | os.PathLike[str],
    *,
    trainable: bool = False,
    check_base: bool = True,
) -> Model:
    """Puts a saved adapter on its base model, in place; one that the model has is unloaded first.

    Args:
        model: The base model, plain or with another adapter.
        directory: What :func:`save_adapter` wrote.
        trainable: Train the blocks further; otherwise they are frozen too.
        check_base: Refuse a model that is not the one the adapter was trained on: whose
            architecture by its config, or whose weights at the blocks, differ. The weights are
            compared as bfloat16, so that a base loaded in float32 or bfloat16 is recognised.

    Raises:
        UserError: Files are missing, truncated or edited, or the base is another model. In the
            latter case the model is left as the plain base that it was.
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
        layer.blocks.data.copy_(adapter.blocks[name])
        layer.blocks.requires_grad_(trainable)
        layer.refresh()
    return model


def config_sha256(config: Any) -> str | None:
    """Identifies the architecture that a config describes; None where it describes none.

    Args:
        config: A transformers config or anything with attributes of the same names. (A transformers
            config answers to ``hidden_size`` where the model calls it ``n_embd``.)
    """
    text_config = getattr(config, "get_text_config", None)
    config = text_config() if callable(text_config) else config
    values = {key: getattr(config, key, None) for key in _ARCHITECTURE_KEYS}
    # Whether a default such as None or False is written down is the library's affair.
    stated = {key: value for key, value in values.items() if value}
    if not stated:
        return None
    text = json.dumps(stated, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def name_or_path(model: nn.Module) -> str | None:
    """Where transformers loaded a model from; None where that is not known."""
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def has_other_config(model: nn.Module, expected: str | None) -> bool:
    """Whether a model's architecture is another than a recorded one, where both are known."""
    found = config_sha256(getattr(model, "config", None))
    return None not in (expected, found) and expected != found


def other_base(
    model: nn.Module, directory: Path, difference: str, expected: str | None
) -> UserError:
    """The error of an adapter that is put on another base model than its own.

    Args:
        model: The model it was put on.
        directory: The adapter's.
        difference: What differs.
        expected: Name or path of its own base, where known.
    """
    return UserError(
        str(directory),
        f"must be loaded on the base model it was trained on; the {difference} differs",
        got=name_or_path(model) or type(model).__name__,
        fix=f"load {expected or 'that model'} in float32 or bfloat16",
    )


@dataclass(frozen=True, eq=False)
class _Adapter:
    """What an adapter directory holds; every dict in the order of its modules."""

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
                fix="save the adapter again, or fetch both files anew",
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
    """What tells a plain model from the base that the adapter was trained on, if anything does."""
    if has_other_config(model, adapter.base["config_sha256"]):
        return "config"
    modules = dict(model.named_modules())
    originals: list[Tensor] = []
    for name, shape in adapter.shapes.items():
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != shape:
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
