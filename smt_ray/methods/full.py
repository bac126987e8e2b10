"""Full fine-tuning, which trains every weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.methods.base_model import check_base, read_base, record_base, write_base
from smt_ray.methods.protocol import Counts, Fetch
from smt_ray.smt.tensorfile import reading

TENSORS_FILE = "tuned_model.safetensors"


@dataclass(frozen=True)
class FullSettings:
    """The settings of full fine-tuning, which has none of its own."""

    is_whole_model: ClassVar[bool] = True

    @classmethod
    def check(
        cls,
        config: RunConfig,
        skeleton: Callable[[], nn.Module],
        probe: Probe,
        selection: str | None,
    ) -> FullSettings:
        """Accepts every model."""
        return cls()

    @staticmethod
    def stage_inputs(config: RunConfig) -> dict[str, Any]:
        """No inputs besides the training settings."""
        return {}

    def describe(self) -> dict[str, Any]:
        """No settings."""
        return {}

    def make(self, fetch: Fetch) -> FullMethod:
        """The method."""
        return FullMethod()


class FullMethod:
    """Trains all parameters, tied ones once."""

    def prepare(self, model: nn.Module) -> None:
        """Makes every parameter trainable."""
        model.requires_grad_(True)
        self._base: dict[str, Any] | None = record_base(
            model, [name for name, _ in model.named_parameters()]
        )

    def count(self, model: nn.Module) -> Counts:
        """Counts all parameters of the base model; there is no adapter."""
        total = sum(parameter.numel() for parameter in model.parameters())
        return Counts(total, total, total)

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the tuned weights in the dtype of the base model."""
        tensors = {
            name: parameters[name].to(parameter.dtype).contiguous()
            for name, parameter in model.named_parameters()
        }
        save_file(tensors, directory / TENSORS_FILE, {"format": "pt"})
        if self._base is not None:
            write_base(self._base, directory)

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Replaces the weights of the base model by the tuned ones."""
        path = directory / TENSORS_FILE
        check_base(model, directory)
        with reading(path, "file of tuned weights"), safe_open(path, framework="pt") as file:
            ours: dict[str, Any] = dict(model.named_parameters())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if shapes != {name: tuple(parameter.shape) for name, parameter in ours.items()}:
                raise UserError(
                    str(path),
                    "must hold exactly the parameters of the model",
                    got=f"{len(shapes)} tensors for {len(ours)} parameters",
                    fix="load the base model that was tuned",
                )
            for name, parameter in ours.items():
                parameter.data.copy_(file.get_tensor(name))
        self._base = read_base(directory)
        model.requires_grad_(trainable)

    def merge(self, model: nn.Module) -> None:
        """Does nothing, as the tuned model is already a plain one."""
