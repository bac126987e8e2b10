"""Activation checkpointing: layers only keep their input, and run again during backward."""

from __future__ import annotations

from typing import Any

from torch import nn

from smt_ray.errors import UserError


def recompute_activations(model: nn.Module) -> None:
    """Switches activation checkpointing on for every decoder layer, in training mode.

    The last layer keeps its activations if :mod:`smt_ray.training.loss.last_layer` narrows it,
    because its backward follows at once.

    Args:
        model: A transformers causal language model, with or without the method's layers.

    Raises:
        UserError: The model does not support it.
    """
    checked: Any = model
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(
            "training.activation_checkpointing",
            f"is not supported by {type(model).__name__}",
            got=True,
            fix="set it to false, and batching.max_tokens lower",
        )
    checked.gradient_checkpointing_enable({"use_reentrant": False})
