"""The two files of an adapter, in the layout of peft: a config, and the tensors of the blocks.

``adapter_config.json`` says where the blocks are, and ``adapter_model.safetensors`` holds them, as
those of (out_features, in_features) weights. peft itself reads and writes the same two files when
:mod:`smt_ray.peft` is imported. So an adapter of the pipeline is one of peft's, and the reverse.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.file_rights import save_file
from smt_ray.smt.base_identity import tensor_bytes
from smt_ray.smt.grid import check_block_size
from smt_ray.smt.tensorfile import reading

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
FORMAT_VERSION = 1

PEFT_TYPE = "SMT"
WRITTEN_PEFT_TYPE = "SMT: import smt_ray.peft before this adapter is loaded"
"""The ``peft_type`` in the file. Without that import, peft fails with this text as its message."""

_PREFIX, _PART = "base_model.model.", "smt_delta"  # how peft names a tuner's tensors


@dataclass(frozen=True, eq=False)
class SavedAdapter:
    """The contents of an adapter's files.

    Attributes:
        block_size: The block size L.
        shapes: Module name -> the (out_features, in_features) of its weight.
        indices: Module name -> its block indices (row, col), (M, 2) int32.
        blocks: Module name -> its tuned blocks, (M, L, L).
        origin: The origin of the selection, as JSON values.
        base_name: The name or path of the base model; None if it is not known.
        config_sha256: The hash of the base model's architecture; None if it is not known.
        blocks_sha256: The hash of the base model's own values at the blocks; None if the adapter
            was trained on quantised ones.
        task_type: peft's name of the task, such as ``CAUSAL_LM``; None if there is none.
    """

    block_size: int
    shapes: Mapping[str, tuple[int, int]]
    indices: Mapping[str, Tensor]
    blocks: Mapping[str, Tensor]
    origin: Mapping[str, Any]
    base_name: str | None
    config_sha256: str | None
    blocks_sha256: str | None
    task_type: str | None = None


def write_adapter(adapter: SavedAdapter, directory: Path) -> None:
    """Writes both files; the folder is made if it is missing.

    The config is written last and has the tensors' hash, so an incomplete adapter is noticed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name in adapter.shapes:
        tensors[f"{_PREFIX}{name}.{_PART}.blocks"] = adapter.blocks[name].contiguous()
        tensors[f"{_PREFIX}{name}.{_PART}.indices"] = adapter.indices[name].contiguous()
    save_file(tensors, directory / TENSORS_FILE, {"format": "pt"})
    config = {
        "peft_type": WRITTEN_PEFT_TYPE,
        "task_type": adapter.task_type,
        "inference_mode": True,
        "base_model_name_or_path": adapter.base_name,
        "format_version": FORMAT_VERSION,
        "block_size": adapter.block_size,
        "modules": describe_modules(adapter.shapes, adapter.indices, adapter.block_size),
        "selection": dict(adapter.origin),
        "base": {"config_sha256": adapter.config_sha256, "blocks_sha256": adapter.blocks_sha256},
        "tensors_sha256": tensors_sha256(tensors),
    }
    (directory / CONFIG_FILE).write_text(dump(config), encoding="utf-8")


def is_smt_adapter(directory: Path) -> bool:
    """Whether a folder holds an adapter of sparse matrix tuning, by its config."""
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        return str(config["peft_type"]) in (PEFT_TYPE, WRITTEN_PEFT_TYPE)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def read_adapter(directory: Path) -> SavedAdapter:
    """Reads both files.

    Raises:
        UserError: A file is missing, truncated or edited, or of another kind or version.
    """
    path = directory / CONFIG_FILE
    with reading(path, "adapter's config"):
        config = json.loads(path.read_text(encoding="utf-8"))
        check_kind(config, path)
        tensors = read_tensors(directory)
        if tensors_sha256(tensors) != config["tensors_sha256"]:
            raise other_tensors(directory)
        size, modules = int(config["block_size"]), dict(config["modules"])
        check_modules(modules, size, field=str(path))
        adapter = SavedAdapter(
            block_size=size,
            shapes={name: shape_of(module) for name, module in modules.items()},
            indices={name: indices_of(module, size) for name, module in modules.items()},
            blocks={name: tensors.pop(f"{_PREFIX}{name}.{_PART}.blocks") for name in modules},
            origin=dict(config["selection"]),
            base_name=config["base_model_name_or_path"],
            config_sha256=config["base"]["config_sha256"],
            blocks_sha256=config["base"]["blocks_sha256"],
            task_type=config["task_type"],
        )
        _check_agreement(adapter, tensors, config)
        return adapter


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file, by peft's names."""
    from safetensors.torch import load_file

    with reading(directory / TENSORS_FILE, "adapter"):
        return load_file(directory / TENSORS_FILE)


def other_tensors(directory: Path) -> UserError:
    """The error for tensors that are not those of the config beside them."""
    return UserError(
        str(directory / TENSORS_FILE),
        f"must hold the blocks that {CONFIG_FILE} was written for",
        fix="save the adapter again, or copy both files again",
    )


def check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Refuses the config of another method's adapter, or of another version."""
    kind, version = str(config["peft_type"]), config.get("format_version")
    if kind not in (PEFT_TYPE, WRITTEN_PEFT_TYPE) or version != FORMAT_VERSION:
        raise UserError(
            str(path),
            f"must be of peft_type {PEFT_TYPE} and format_version {FORMAT_VERSION}",
            got=(kind, version),
            fix="use the smt_ray that wrote it, or peft for an adapter of another method",
        )


def describe_modules(
    shapes: Mapping[str, tuple[int, int]], indices: Mapping[str, Tensor], block_size: int
) -> dict[str, dict[str, list[int]]]:
    """The modules as JSON values: their shapes, and the numbers of their blocks.

    The number of block (row, col) is row * (in_features / L) + col.
    """
    return {
        name: {
            "shape": [out_features, in_features],
            "blocks": [
                row * (in_features // block_size) + col for row, col in indices[name].tolist()
            ],
        }
        for name, (out_features, in_features) in shapes.items()
    }


def check_modules(modules: Any, block_size: Any, *, field: str) -> None:
    """Checks described modules.

    Args:
        modules: The modules; see :func:`describe_modules`.
        block_size: The block size L.
        field: The name of the modules in an error.

    Raises:
        UserError: A module has no such blocks.
    """
    for name, module in modules.items():
        place = f"{field}.{name}"
        if not isinstance(module, Mapping) or set(module) != {"shape", "blocks"}:
            raise UserError(place, "must be a mapping of shape and blocks", got=module)
        (out_features, in_features), blocks = shape_of(module), module["blocks"]
        check_block_size({name: (out_features, in_features)}, block_size, field="block_size")
        last = (out_features // block_size) * (in_features // block_size) - 1
        if not blocks:
            raise UserError(place, "must have at least one block", got=blocks)
        if wrong := [number for number in blocks if number not in range(last + 1)]:
            raise UserError(place, f"must have blocks from 0 to {last}", got=wrong[0])
        if len(set(blocks)) != len(blocks):
            raise UserError(place, "must have distinct blocks", got=blocks)


def shape_of(module: Mapping[str, Any]) -> tuple[int, int]:
    """The (out_features, in_features) of a described module."""
    out_features, in_features = module["shape"]
    return int(out_features), int(in_features)


def indices_of(module: Mapping[str, Any], block_size: int) -> Tensor:
    """The block indices (row, col) of a described module, (M, 2) int32."""
    numbers = torch.tensor(module["blocks"], dtype=torch.int64)
    num_cols = shape_of(module)[1] // block_size
    pairs = torch.stack([numbers // num_cols, numbers % num_cols], dim=1)
    return pairs.to(torch.int32)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The hash of tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def dump(config: Mapping[str, Any]) -> str:
    """A config as JSON with each list of numbers in one line, since there may be thousands."""

    def in_one_line(match: re.Match[str]) -> str:
        return re.sub(r"\s+", " ", match.group()).replace("[ ", "[").replace(" ]", "]")

    return re.sub(r"\[[\s\d,]*\]", in_one_line, json.dumps(config, indent=2)) + "\n"


def _check_agreement(
    adapter: SavedAdapter, others: dict[str, Tensor], config: Mapping[str, Any]
) -> None:
    """Checks that the tensors are those that the config describes."""
    size = adapter.block_size
    for name in adapter.shapes:
        stored = others.pop(f"{_PREFIX}{name}.{_PART}.indices")
        if adapter.blocks[name].shape != (len(stored), size, size):
            raise ValueError(f"the blocks of {name} have another shape")
        if not torch.equal(stored, adapter.indices[name]):
            raise ValueError(f"the blocks of {name} have other places in {TENSORS_FILE}")
    if others:
        saved = config.get("modules_to_save")
        reason = "modules_to_save is not supported here" if saved else "it has unknown tensors"
        raise ValueError(f"{reason}: {next(iter(others))}")
