"""Sparse Matrix Tuning, which trains selected blocks of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smt_ray.methods.base_model import check_base, read_base, record_base, write_base
from smt_ray.methods.protocol import Counts, Fetch
from smt_ray.methods.selected import SelectedSettings
from smt_ray.methods.smt_delta import load_delta, prepare_delta, save_delta
from smt_ray.smt.adapter import load_adapter, save_adapter
from smt_ray.smt.model import apply_selection, merge_and_unload, sparse_modules
from smt_ray.smt.quantised import quantised_sizes
from smt_ray.smt.selection import Selection


@dataclass(frozen=True)
class SmtSettings(SelectedSettings):
    """The settings of SMT."""

    def make(self, fetch: Fetch) -> SmtMethod:
        """Makes the method, and reads its selection."""
        with fetch(self.selection) as file:
            return SmtMethod(Selection.load(file))


class SmtMethod:
    """Trains the selected blocks: in place, or beside weights that are quantised.

    Args:
        selection: The selected blocks; None to load an adapter, which has its own.
    """

    def __init__(self, selection: Selection | None = None) -> None:
        self._selection = selection

    def prepare(self, model: nn.Module) -> None:
        """Replaces linears by sparse layers, or puts the blocks beside them."""
        assert self._selection is not None
        if not quantised_sizes(model):
            apply_selection(model, self._selection)
            return
        # The blocks begin with dequantised values, which do not show what the base model was.
        counts = self._selection.counts()
        names = [f"{name}.weight" for name in counts if counts[name]]
        self._base: dict[str, Any] | None = record_base(model, names)
        prepare_delta(model, self._selection)

    def count(self, model: nn.Module) -> Counts:
        """Counts the blocks, as an adapter beside the base model."""
        return Counts.of_adapter(model)

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the blocks and their indices."""
        if quantised_sizes(model):
            save_delta(model, parameters, directory)
            if self._base is not None:
                write_base(self._base, directory)
            return
        for name, layer in sparse_modules(model).items():
            layer.blocks = nn.Parameter(parameters[f"{name}.blocks"])
        save_adapter(model, directory)

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Puts the saved blocks on their base model."""
        check_base(model, directory)
        self._base = read_base(directory)
        load = load_delta if quantised_sizes(model) else load_adapter
        load(model, directory, trainable=trainable)

    def merge(self, model: nn.Module) -> None:
        """Turns the sparse layers into plain linears."""
        merge_and_unload(model)
