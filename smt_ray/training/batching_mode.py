"""Chooses how rows are batched: the configured mode if it is exact for the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from smt_ray.data.batches import PACKED, PADDED, PREFIX_PACKED

_LAYER_TYPES = {"full_attention", "sliding_attention"}  # that the packed kernel computes


@dataclass(frozen=True)
class BatchingMode:
    """The batching mode of a model.

    Attributes:
        mode: ``padded``, ``packed`` or ``prefix_packed``.
        fallback: The reason why it is not the configured mode; None if it is.
    """

    mode: str
    fallback: str | None = None


def choose_mode(model: nn.Module, mode: str, *, training: bool) -> BatchingMode:
    """The configured batching mode, or the one to fall back to where that is not exact.

    Dropout draws a random number for every position. A shared prefix is computed once and has one
    draw, where each of its rows would have its own. So rows are packed whole if there is dropout.

    Args:
        model: A transformers causal language model with the method's layers in place.
        mode: The configured mode.
        training: Whether dropout is active.
    """
    if mode == PADDED:
        return BatchingMode(PADDED)
    if obstacle := packing_obstacle(model):
        return BatchingMode(PADDED, obstacle)
    if mode == PREFIX_PACKED and training and has_dropout(model):
        return BatchingMode(PACKED, "the dropout of rows differs, so they cannot share a prefix")
    return BatchingMode(mode)


def packing_obstacle(model: nn.Module) -> str | None:
    """The reason why the model would compute packed rows wrongly; None if there is none.

    Args:
        model: A transformers causal language model.
    """
    config: Any = model.config
    text = config.get_text_config()
    kind = type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        return f"{kind} does not support another attention kernel"
    others = set(getattr(text, "layer_types", None) or ()) - _LAYER_TYPES
    if others:
        return f"{kind} has layers of {', '.join(sorted(others))}"
    if getattr(text, "attn_logit_softcapping", None):
        return f"{kind} caps its attention scores"
    if any(name.rpartition(".")[2] == "sinks" for name, _ in model.named_parameters()):
        return f"{kind} has attention sinks"
    scaling: Mapping[str, Any] = getattr(text, "rope_parameters", None) or {}
    if any(rope_type in str(scaling) for rope_type in ("dynamic", "longrope")):
        return "its rotary embedding depends on the length of the input"
    return None


def has_dropout(model: nn.Module) -> bool:
    """Whether the model draws random numbers in training mode."""
    return any(_dropout_rate(module) > 0 for module in model.modules())


def _dropout_rate(module: nn.Module) -> float:
    if isinstance(module, nn.Dropout):
        return module.p
    rate = getattr(module, "attention_dropout", 0.0)  # a number in most families' attention
    return rate if isinstance(rate, float) else 0.0


def attention_kernel(mode: str, implementation: str) -> str:
    """What computes attention in a batching mode, for people to read.

    Args:
        mode: ``padded``, ``packed`` or ``prefix_packed``.
        implementation: ``model.attn_implementation``, which packed rows do not use.
    """
    return implementation if mode == PADDED else "sdpa by row"
