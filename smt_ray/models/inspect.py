"""Properties of a model: its eligible linears, its number of parameters and its identity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cachetools import LRUCache, cached
from torch import nn

from smt_ray.artifacts.versions import versioned
from smt_ray.config.model import ModelConfig
from smt_ray.errors import UserError
from smt_ray.models.place import explained, hub_options, model_place
from smt_ray.models.targets import attention_inputs
from smt_ray.smt.linears import is_known_linear, is_transposed
from smt_ray.smt.model import check_untied, find_ties
from smt_ray.smt.modules import match_modules, propose_modules
from smt_ray.smt.quantised import quantised_sizes

_HASHED_SUFFIXES = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja", ".py")


def find_eligible(
    model: nn.Module,
    target_modules: Sequence[str] | Literal["auto"],
    *,
    unused: Sequence[str] = (),
    field: str = "warmup.target_modules",
) -> dict[str, nn.Module]:
    """The linears whose blocks may be selected, in the order of the model.

    Args:
        model: The base model.
        target_modules: The names of the linears, or the last parts of their names (``v_proj``);
            auto stands for the linears that make queries, keys and values.
        unused: See :func:`find_linears`.
        field: The name of the target modules in an error.

    Raises:
        UserError: A name matches no module, a module that is not a plain linear, or a linear whose
            weight another module uses, too.
    """
    if target_modules == "auto":
        target_modules = attention_inputs(trainable_linears(model, unused=unused), field=field)
    return find_linears(model, target_modules, field=field, unused=unused)


def trainable_linears(model: nn.Module, *, unused: Sequence[str] = ()) -> list[str]:
    """The names of the linears that may be trained, in the order of the model.

    Args:
        model: The base model.
        unused: See :func:`find_linears`.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if is_known_linear(module) and name_pattern(name) not in unused
    }
    ties = find_ties(model, linears)
    return [name for name in linears if name not in ties]


def find_linears(
    model: nn.Module,
    target_modules: Sequence[str],
    *,
    field: str,
    unused: Sequence[str] = (),
) -> dict[str, nn.Module]:
    """The linears with given names, in the order of the model.

    Args:
        model: The base model.
        target_modules: The names of the linears, or the last parts of their names.
        field: The config key of the names, for the error.
        unused: The linears to leave out, because text does not reach them or their weights are used
            without their forward (:class:`smt_ray.documents.probe.Probe`); numbers in the names are
            replaced by ``*``.

    Raises:
        UserError: A name matches no module, a module that is not a plain linear
            (:func:`smt_ray.smt.linears.is_known_linear`), or a linear whose weight another module
            uses, too.
    """
    modules = {n: m for n, m in model.named_modules() if name_pattern(n) not in unused}
    linears = {name: module for name, module in modules.items() if is_known_linear(module)}
    ties = find_ties(model, linears)
    fix = propose_modules(name for name in linears if name not in ties)
    fix += _explain_experts(model)
    names = match_modules(modules, target_modules, field=field, fix=fix)
    for name in names:
        if name not in linears:
            raise UserError(
                field,
                "must name plain or quantised torch.nn.Linear modules,"
                f" but {name} is a {type(modules[name]).__name__}",
                got=list(target_modules),
                fix=fix,
            )
    found = {name: linears[name] for name in names}
    check_untied(model, found, field=field)
    return found


def name_pattern(name: str) -> str:
    """A module's name with the numbers of layers and experts replaced by ``*``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear of any class, GPT-2's included."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def _explain_experts(model: nn.Module) -> str:
    """Says why the linears of experts are not proposed; empty for models without fused experts."""
    fused = [n for n, p in model.named_parameters() if p.dim() == 3 and "experts" in n]
    if not fused:
        return ""
    return f"; {fused[0]} and the like hold the experts in one parameter, which is out of reach"


def count_parameters(model: nn.Module) -> int:
    """The number of all parameters, tied ones once, and quantised ones as if they were not."""
    sizes = quantised_sizes(model)
    return sum(sizes.get(id(p), p.numel()) for p in model.parameters())


def token_limits(model: Any) -> tuple[int, int | None]:
    """The number of token ids that a model embeds, and the largest number of tokens of a row.

    Args:
        model: A transformers model, perhaps on the meta device.
    """
    embedded = int(model.get_input_embeddings().weight.shape[0])
    return embedded, getattr(model.config.get_text_config(), "max_position_embeddings", None)


def model_identity(model: ModelConfig) -> dict[str, str | None]:
    """The identity of a base model: a hash of its files, or its hub name and commit.

    Args:
        model: The ``model`` section of a config.

    Raises:
        UserError: The model is not a folder and is not found on the hub.
    """
    chosen = {"gguf_file": model.gguf_file, "dtype": model.dtype}
    if model.quantization != "none":
        chosen["quantization"] = model.quantization
    if model.config_overrides:
        chosen["config_overrides"] = json.dumps(model.config_overrides, sort_keys=True)
    with model_place(model) as path:
        if Path(path).is_dir():
            return {"sha256": _folder_hash(Path(path), model.gguf_file), **chosen}
    from transformers import AutoConfig

    config = explained(model, lambda: AutoConfig.from_pretrained(path, **hub_options(model)))
    return {"path": path, "commit": getattr(config, "_commit_hash", None), **chosen}


def _folder_hash(folder: Path, gguf_file: str | None) -> str:
    if gguf_file and not (folder / gguf_file).is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("*.gguf"))) or "none"
        raise UserError(
            "model.gguf_file",
            f"must be a file in {folder}",
            got=gguf_file,
            fix=f"GGUF files there: {there}",
        )
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        wanted = file.name == gguf_file if gguf_file else file.suffix in _HASHED_SUFFIXES
        if file.is_file() and wanted:
            total.update(json.dumps([file.name, _file_hash(file)]).encode())
    return total.hexdigest()


@cached(LRUCache(maxsize=256), key=versioned)  # runs of one model hash its gigabytes once
def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
