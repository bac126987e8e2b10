"""What a method does for the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class Counts:
    """How much is trained.

    Attributes:
        num_trainable: Parameters that are trained.
        num_base: Parameters of the base model, tied ones once.
        num_total: Of base and adapter together, which peft's percentage divides by; SMT's blocks
            count as an adapter, full fine-tuning has none.
    """

    num_trainable: int
    num_base: int
    num_total: int

    def summary(self) -> dict[str, Any]:
        """What metrics say of it; percentages in points."""
        return {
            "num_trainable": self.num_trainable,
            "num_base": self.num_base,
            "percent_of_base": 100 * self.num_trainable / self.num_base,
            "percent_of_total": 100 * self.num_trainable / self.num_total,
        }


class Method(Protocol):
    """Prepares a base model for training, and writes down what training changed."""

    def prepare(self, model: nn.Module, *, zero_stage: int) -> None:
        """Chooses what is trained, in place: afterwards exactly that requires gradients.

        The model's weights are whole; every rank does the same.
        """
        ...

    def count(self, model: nn.Module) -> Counts:
        """How much of the prepared model is trained; its weights are still whole."""
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
        """Puts an adapter on its base model, in place.

        Raises:
            UserError: The adapter is not whole, or it is another base model's.
        """
        ...

    def merge(self, model: nn.Module) -> None:
        """Makes the adapted model a plain one with the tuned weights, in place."""
        ...
