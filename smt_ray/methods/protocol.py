"""The protocol of methods: the settings that cross processes, and the work on a model.

A method has two parts. Its *settings* are plain values. They are made from the config before
anything is computed, they say what the training stage depends on, and they are sent to the ranks.
There they make the *method*, which prepares, counts, saves, loads and merges.
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
from smt_ray.documents.probe import Probe
from smt_ray.documents.run import Trainable
from smt_ray.models.inspect import count_parameters

Fetch = Callable[[str], AbstractContextManager[Path]]
"""A function that opens a local path of a file, such as ``Storage.local``."""


@dataclass(frozen=True)
class Counts:
    """The numbers of parameters.

    Attributes:
        num_trainable: The number of trained parameters.
        num_base: The number of parameters of the base model, tied ones once.
        num_total: The number of parameters of base model and adapter together, by which peft's
            percentage divides. SMT's blocks count as an adapter; full fine-tuning has none.
    """

    num_trainable: int
    num_base: int
    num_total: int

    @classmethod
    def of_adapter(cls, model: nn.Module) -> Counts:
        """Counts a prepared model whose trained parameters are an adapter beside the base model."""
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = count_parameters(model)
        return cls(trained, total - trained, total)

    def summary(self) -> Trainable:
        """The counts with their percentages."""
        return Trainable(
            num_trainable=self.num_trainable,
            num_base=self.num_base,
            percent_of_base=100 * self.num_trainable / self.num_base,
            percent_of_total=100 * self.num_trainable / self.num_total,
        )


class Method(Protocol):
    """The work on a model: it is prepared for training, and its adapter is saved and loaded."""

    def prepare(self, model: nn.Module) -> None:
        """Changes the model so that exactly the trained parameters require gradients.

        The weights of the model must be whole, and every rank does the same.
        """
        ...

    def count(self, model: nn.Module) -> Counts:
        """Counts the parameters of the prepared model, whose weights must be whole."""
        ...

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the adapter. The prepared model cannot be used afterwards.

        Args:
            model: The prepared model, whose trained parameters may be partitioned.
            parameters: The whole trained parameters on the CPU, by their names in the model; or a
                rank's share of them, if the settings say ``is_whole_model``.
            directory: The folder, which must exist.
        """
        ...

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Puts an adapter on its base model, which is changed in place.

        Args:
            model: The plain model.
            directory: The folder of the adapter.
            trainable: Whether its parameters are trained further, as after :meth:`prepare`;
                otherwise they are frozen.

        Raises:
            UserError: The adapter is damaged, or it belongs to another base model.
        """
        ...

    def merge(self, model: nn.Module) -> None:
        """Turns a model with an adapter into a plain one with the tuned weights, in place."""
        ...


class MethodSettings(Protocol):
    """The settings of a method, as plain values that can be pickled."""

    is_whole_model: ClassVar[bool]
    """Whether the saved adapter holds all weights of the model."""

    @classmethod
    def check(
        cls,
        config: RunConfig,
        skeleton: Callable[[], nn.Module],
        probe: Probe,
        selection: str | None,
    ) -> MethodSettings:
        """Makes the settings of a run, and checks them on its model.

        Args:
            config: The configuration of the run.
            skeleton: A function that loads the base model on the meta device; it is only called
                if the model is needed.
            probe: What the architecture of the model allows.
            selection: The file of the selected blocks, as the storage names it, for a method that
                selects blocks.

        Raises:
            UserError: The model does not allow what the config asks for.
        """
        ...

    @staticmethod
    def stage_inputs(config: RunConfig) -> dict[str, Any]:
        """The inputs of the training stage besides rows, selection and training settings."""
        ...

    def describe(self) -> dict[str, Any]:
        """The settings that tables and trackers show, as JSON values."""
        ...

    def make(self, fetch: Fetch) -> Method:
        """Makes the method.

        Args:
            fetch: A function that opens a local path of a file that the settings name.
        """
        ...
