"""What a method does for the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn


class Method(Protocol):
    """Prepares a base model for training, and writes down what training changed."""

    def prepare(self, model: nn.Module, *, zero_stage: int) -> None:
        """Chooses what is trained, in place: afterwards exactly that requires gradients."""
        ...

    def refresh(self, model: nn.Module) -> None:
        """Brings the model up to date after an optimizer changed parameters unseen by autograd."""
        ...

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the adapter; the prepared model is used up.

        Args:
            model: The prepared model; its own trainable parameters may be partitioned away.
            parameters: The trained values by the model's parameter names, whole, on the CPU.
            directory: Where to, created by the caller.
        """
        ...

    def load(self, model: nn.Module, directory: Path) -> None:
        """Puts an adapter on its base model, in place."""
        ...

    def merge(self, model: nn.Module) -> None:
        """Makes the adapted model a plain one with the tuned weights, in place."""
        ...
