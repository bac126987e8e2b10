"""What a method is: the settings that cross processes, and the work on a model.

A method has two halves. Its *settings* are plain values: they are made from the config before
anything is computed, name what the training stage depends on, and travel to the ranks. There they
make the *method*, which prepares, counts, saves, loads and merges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.documents.run import Trainable

Fetch = Callable[[str], AbstractContextManager[Path]]
"""Opens a local path of a file, such as :meth:`smt_ray.artifacts.storage.Storage.local`."""


@dataclass(frozen=True)
class Counts:
    """How much is trained.

    Attributes:
        num_trainable: The parameters that are trained.
        num_base: The parameters of the base model, tied ones once.
        num_total: The parameters of base and adapter together, which peft's percentage divides by;
            SMT's blocks count as an adapter, full fine-tuning has none.
    """

    num_trainable: int
    num_base: int
    num_total: int

    def summary(self) -> Trainable:
        """The counts with their percentages."""
        return Trainable(
            num_trainable=self.num_trainable,
            num_base=self.num_base,
            percent_of_base=100 * self.num_trainable / self.num_base,
            percent_of_total=100 * self.num_trainable / self.num_total,
        )


class Method(Protocol):
    """Prepares a base model for training, and writes down what training changed."""

    def prepare(self, model: nn.Module, *, zero_stage: int) -> None:
        """Makes exactly the trained parameters require gradients, in place.

        The weights of the model are whole, and every rank does the same.
        """
        ...

    def count(self, model: nn.Module) -> Counts:
        """How much of the prepared model is trained; its weights are still whole."""
        ...

    def refresh(self, model: nn.Module) -> None:
        """Updates what is derived from the trained parameters, after an optimizer step."""
        ...

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the adapter; the prepared model cannot be used afterwards.

        Args:
            model: The prepared model; its own trainable parameters may be partitioned.
            parameters: The trained values by the model's parameter names, whole, on the CPU.
            directory: An existing folder.
        """
        ...

    def load(self, model: nn.Module, directory: Path) -> None:
        """Puts an adapter on its base model, in place.

        Raises:
            UserError: The adapter is damaged, or it belongs to another base model.
        """
        ...

    def merge(self, model: nn.Module) -> None:
        """Turns the adapted model into a plain one with the tuned weights, in place."""
        ...


class MethodSettings(Protocol):
    """The settings of a method, as plain values that can be pickled."""

    is_whole_model: ClassVar[bool]
    """Whether the saved adapter holds all weights of the model."""

    @classmethod
    def check(
        cls, config: RunConfig, skeleton: Callable[[], nn.Module], selection: str | None
    ) -> MethodSettings:
        """What the model makes of the config's settings.

        Args:
            config: The configuration of the run.
            skeleton: Gives the base model on the meta device; only called if it is needed.
            selection: The file of the selected blocks, as the storage names it, for a method that
                selects blocks.

        Raises:
            UserError: The model does not allow what the config asks for.
        """
        ...

    @staticmethod
    def stage_inputs(config: RunConfig) -> dict[str, Any]:
        """What the training stage depends on besides rows, selection and training settings."""
        ...

    def describe(self) -> dict[str, Any]:
        """What tables and trackers say of the settings, as JSON values."""
        ...

    def make(self, fetch: Fetch) -> Method:
        """The method.

        Args:
            fetch: Opens a local path of a file that the settings name.
        """
        ...
