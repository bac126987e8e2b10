"""Full fine-tuning, which trains every weight."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.errors import UserError
from smt_ray.file_rights import save_file
from smt_ray.methods.base_model import check_base, read_base, record_base, write_base
from smt_ray.methods.protocol import Counts, Fetch
from smt_ray.smt.tensorfile import SavedTensors, reading

TENSORS_FILE = "tuned_model.safetensors"
"""The tuned weights; those of a large model are in shares (``tuned_model-00001-of-00004``)."""


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


def file_rights(directory: Path) -> list[Path]:
    """The files of tuned weights in a folder: one, or one for each share."""
    stem, suffix = os.path.splitext(TENSORS_FILE)
    return sorted(directory.glob(f"{stem}{suffix}")) or sorted(
        directory.glob(f"{stem}-*-of-*{suffix}")
    )


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
        """Writes the given weights in the dtype of the base model."""
        dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
        tensors = {name: parameters[name].to(dtypes[name]).contiguous() for name in parameters}
        save_file(tensors, directory / TENSORS_FILE, {"format": "pt"})
        if self._base is not None:
            write_base(self._base, directory)

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Replaces the weights of the base model by the tuned ones."""
        check_base(model, directory)
        files = file_rights(directory)
        with reading(files[0], "file of tuned weights"):
            saved, ours = SavedTensors(files), dict(model.named_parameters())
            if saved.shapes() != {name: tuple(p.shape) for name, p in ours.items()}:
                raise UserError(
                    str(files[0]),
                    "must hold exactly the parameters of the model, with the other files of its"
                    " kind",
                    got=f"{len(saved)} tensors for {len(ours)} parameters",
                    fix="load the base model that was tuned, and keep all files of the adapter",
                )
            for name, parameter in ours.items():
                parameter.data.copy_(saved[name])
        self._base = read_base(directory)
        model.requires_grad_(trainable)

    def merge(self, model: nn.Module) -> None:
        """Does nothing, as the tuned model is already a plain one."""
