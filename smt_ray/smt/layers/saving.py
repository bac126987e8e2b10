"""A model with sparse layers is saved as a plain one, with the tuned weights."""

from __future__ import annotations

import inspect
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.layers.sharded import is_dtensor

_METHOD = "save_pretrained"


def plain_state_dict(state: MutableMapping[str, Tensor]) -> MutableMapping[str, Tensor]:
    """Turns the state of a model with sparse layers into that of the plain model, in place.

    The blocks are written into the weights and left out. So it also serves for a state that was
    gathered without the layers' help, as ZeRO-3 does, whose weights are those of the base model.

    Args:
        state: The state: parameter name -> tensor. Its weights may be changed in place.

    Returns:
        The same object.
    """
    for prefix in [key.removesuffix("blocks") for key in state if _is_blocks(key, state)]:
        blocks, indices = state.pop(f"{prefix}blocks"), state.pop(f"{prefix}indices")
        weight = state[f"{prefix}weight"]
        if is_dtensor(weight) or weight.is_meta:
            continue  # the layer has written its blocks already, or there is nothing to write to
        grid = BlockGrid(weight.shape[0], weight.shape[1], blocks.shape[1])
        grid.scatter_(weight.data, indices.to(weight.device), blocks.data.to(weight.device))
    return state


def save_as_plain(model: nn.Module) -> None:
    """Makes ``save_pretrained`` of the transformers models in a model write plain models."""
    for module in model.modules():
        if hasattr(type(module), _METHOD):
            setattr(module, _METHOD, partial(_save_pretrained, module))


def save_as_before(model: nn.Module) -> None:
    """Takes :func:`save_as_plain` back."""
    for module in model.modules():
        vars(module).pop(_METHOD, None)


def _save_pretrained(model: Any, *args: Any, **kwargs: Any) -> Any:
    """Transformers' ``save_pretrained`` with the state of the plain model."""
    save = type(model).save_pretrained
    call = inspect.signature(save).bind(model, *args, **kwargs)
    state = call.arguments.get("state_dict")
    call.arguments["state_dict"] = plain_state_dict(model.state_dict() if state is None else state)
    return save(*call.args, **call.kwargs)


def _is_blocks(key: str, state: MutableMapping[str, Tensor]) -> bool:
    prefix = key.removesuffix("blocks")
    siblings = (f"{prefix}weight", f"{prefix}indices")
    return prefix != key and all(sibling in state for sibling in siblings)
