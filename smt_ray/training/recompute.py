"""Activation checkpointing: layers only keep their input, and run again during backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from smt_ray.errors import UserError


def recompute_activations(model: nn.Module, *, training: bool = True) -> None:
    """Switches activation checkpointing on for every decoder layer.

    The last layer keeps its activations if :mod:`smt_ray.training.loss.last_layer` narrows it,
    because its backward follows at once.

    Args:
        model: A transformers causal language model, with or without the method's layers.
        training: Whether the model is in training mode. In evaluation mode transformers would not
            checkpoint.

    Raises:
        UserError: The model does not support it.
    """
    checked: Any = model
    supported = getattr(model, "supports_gradient_checkpointing", False)
    if supported:
        checked.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [] if training or not supported else _checkpointing_layers(model)
    if not supported or not (training or layers):
        raise UserError(
            "training.activation_checkpointing",
            f"is not supported by {type(model).__name__}",
            got=True,
            fix="set it to false, and batching.max_tokens lower",
        )
    for layer in layers:
        layer.forward = partial(_checkpointed, layer, layer.forward)


def _checkpointing_layers(model: nn.Module) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]


def _checkpointed(layer: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not (layer.gradient_checkpointing and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
