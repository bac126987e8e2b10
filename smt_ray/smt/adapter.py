"""The adapter of a model with sparse layers: it is saved, and put on a base model."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.adapter_files import SavedAdapter, read_adapter, write_adapter
from smt_ray.smt.base_identity import (
    blocks_sha256,
    config_sha256,
    has_other_config,
    name_or_path,
    other_base,
)
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.linears import as_dense, dense_weight
from smt_ray.smt.model import ORIGIN_ATTRIBUTE, Model, make_sparse, sparse_modules, unload


def save_adapter(model: nn.Module, directory: str | os.PathLike[str]) -> Path:
    """Writes the blocks of a model to ``adapter_model.safetensors`` and ``adapter_config.json``.

    They are the files of a peft adapter, which ``PeftModel.from_pretrained`` reads once
    ``smt_ray.peft`` is imported.

    Raises:
        UserError: The model has no sparse layers.
    """
    layers = sparse_modules(model)
    if not layers:
        raise UserError("model", "must have sparse layers", got=type(model).__name__)
    originals = {
        name: as_dense(layer.original_blocks, layer.transposed) for name, layer in layers.items()
    }
    adapter = SavedAdapter(
        block_size=next(iter(layers.values())).block_size,
        shapes={name: (layer.out_features, layer.in_features) for name, layer in layers.items()},
        indices={name: layer.layout.dense_indices for name, layer in layers.items()},
        blocks={
            name: as_dense(layer.blocks.detach().cpu(), layer.transposed)
            for name, layer in layers.items()
        },
        origin=getattr(model, ORIGIN_ATTRIBUTE, {}),
        base_name=name_or_path(model),
        config_sha256=config_sha256(getattr(model, "config", None)),
        blocks_sha256=blocks_sha256(originals),
        task_type="CAUSAL_LM" if hasattr(model, "prepare_inputs_for_generation") else None,
    )
    write_adapter(adapter, Path(directory))
    return Path(directory)


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
        directory: The directory that :func:`save_adapter` or peft wrote.
        trainable: Whether the blocks are trainable; otherwise they are frozen too.
        check_base: Whether another base model is an error. Its config and its weights at the blocks
            are compared. Weights are compared in bfloat16, so a base model may be loaded in float32
            or bfloat16.

    Raises:
        UserError: Files are missing, truncated or edited, or the base is another model. In the
            latter case the model remains a plain base model.
    """
    directory = Path(directory)
    adapter = read_adapter(directory)
    if sparse_modules(model):
        unload(model)
    difference = _difference(model, adapter) if check_base else None
    if difference:
        raise other_base(model, directory, difference, adapter.base_name)
    make_sparse(model, adapter.block_size, adapter.shapes, adapter.indices, adapter.origin)
    for name, layer in sparse_modules(model).items():
        layer.blocks.data.copy_(as_dense(adapter.blocks[name], layer.transposed))
        layer.blocks.requires_grad_(trainable)
        layer.refresh()
    return model


def _difference(model: nn.Module, adapter: SavedAdapter) -> str | None:
    """The difference between a plain model and the adapter's base model; None if there is none."""
    if has_other_config(model, adapter.config_sha256):
        return "config"
    modules = dict(model.named_modules())
    originals: dict[str, Tensor] = {}
    for name, shape in adapter.shapes.items():
        module = modules.get(name)
        if module is None or not isinstance(getattr(module, "weight", None), Tensor):
            return f"weight of {name}"
        weight = dense_weight(module)
        if weight.shape != shape:
            return f"weight of {name}"
        grid = BlockGrid(shape[0], shape[1], adapter.block_size)
        originals[name] = grid.gather(weight.detach(), adapter.indices[name].to(weight.device))
    has_no_weights = any(blocks.is_meta for blocks in originals.values())
    if has_no_weights or adapter.blocks_sha256 is None:
        return None
    if adapter.blocks_sha256 != blocks_sha256(originals):
        return "weight at the adapter's blocks"
    return None
