"""Activation checkpointing: layers keep their input alone and run once more in backward."""

from __future__ import annotations

from typing import Any

from torch import nn

from smt_ray.errors import UserError


def recompute_activations(model: nn.Module) -> None:
    """Switches it on for every decoder layer, in training mode.

    The last layer keeps its activations where :mod:`smt_ray.training.last_layer` narrows it: its
    backward comes at once.

    Args:
        model: A transformers causal language model, the method's layers in place or not.

    Raises:
        UserError: The model's family cannot.
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
