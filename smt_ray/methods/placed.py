"""Methods that train single elements (SIFT) or whole input columns of the weights, in place."""

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
from smt_ray.places.adapter import load_places, save_places
from smt_ray.places.model import apply_places, merge_places, placed_modules
from smt_ray.places.selection import PlaceSelection


@dataclass(frozen=True)
class PlacedSettings(SelectedSettings):
    """The settings of a training of selected elements or columns."""

    def make(self, fetch: Fetch) -> PlacedMethod:
        """Makes the method, and reads its selection."""
        with fetch(self.selection) as file:
            return PlacedMethod(PlaceSelection.load(file))


class PlacedMethod:
    """Trains the selected elements or columns in place.

    Args:
        selection: The selection; None to load an adapter, which has its own.
    """

    def __init__(self, selection: PlaceSelection | None = None) -> None:
        self._selection = selection

    def prepare(self, model: nn.Module) -> None:
        """Replaces linears by layers with trained values."""
        assert self._selection is not None
        counts = self._selection.counts()
        names = [f"{name}.weight" for name in counts if counts[name]]
        self._base: dict[str, Any] | None = record_base(model, names)
        self._origin = self._selection.origin
        apply_places(model, self._selection.kind, self._selection.modules)

    def count(self, model: nn.Module) -> Counts:
        """Counts the trained values, as an adapter beside the base model."""
        return Counts.of_adapter(model)

    def save(
        self, model: nn.Module, parameters: Mapping[str, torch.Tensor], directory: Path
    ) -> None:
        """Writes the values and their places, and the record of the base model."""
        values = {name: parameters[f"{name}.blocks"] for name in placed_modules(model)}
        save_places(model, values, self._origin, directory)
        if self._base is not None:
            write_base(self._base, directory)

    def load(self, model: nn.Module, directory: Path, *, trainable: bool = False) -> None:
        """Puts the saved values into their base model."""
        check_base(model, directory)
        self._base, self._origin = read_base(directory), load_places(model, directory)
        for layer in placed_modules(model).values():
            layer.blocks.requires_grad_(trainable)

    def merge(self, model: nn.Module) -> None:
        """Turns the layers into plain linears."""
        merge_places(model)
