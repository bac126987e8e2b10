"""A selection of single elements or whole columns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from smt_ray.places.layouts import Kind
from smt_ray.smt.tensorfile import read_header, read_tensors, reading, write_tensors

_FILE = "selection of elements or columns"

Shapes = Mapping[str, tuple[int, int]]
"""Module name -> (out_features, in_features)."""


@dataclass(frozen=True, eq=False)
class ModulePlaces:
    """The chosen places of one module.

    Attributes:
        shape: The (out_features, in_features) of its weight.
        places: The numbers of the elements (row * in_features + column) or of the columns,
            ascending, on the CPU: (k,) int32, or int64 for a weight of 2^31 elements and more.
    """

    shape: tuple[int, int]
    places: Tensor


@dataclass(frozen=True, eq=False)
class PlaceSelection:
    """The chosen elements or columns of a model.

    Attributes:
        kind: What was chosen.
        modules: All eligible modules, in the model's order; some may have no chosen place.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        score: The score that ranked the places.
        scope: The scope: ``per_module`` or ``global``.
        provenance: The origin of the scores, as JSON values.
    """

    kind: Kind
    modules: Mapping[str, ModulePlaces]
    num_base_parameters: int
    score: str
    scope: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_chosen(self) -> int:
        """The number of chosen elements or columns of all modules."""
        return sum(self.counts().values())

    @property
    def num_trainable(self) -> int:
        """The number of parameters in them."""
        if self.kind == "element":
            return self.num_chosen
        return sum(len(m.places) * m.shape[0] for m in self.modules.values())

    @property
    def budget(self) -> float:
        """The trainable parameters as a fraction of the base model's."""
        return self.num_trainable / self.num_base_parameters

    @property
    def origin(self) -> dict[str, Any]:
        """What an adapter says about the selection, as JSON values."""
        names = ("score", "scope", "budget", "num_base_parameters")
        return {name: getattr(self, name) for name in names}

    def counts(self) -> dict[str, int]:
        """Module name -> the number of its chosen elements or columns."""
        return {name: len(module.places) for name, module in self.modules.items()}

    def summary(self) -> str:
        """A few lines: how many were chosen, and how many of them each kind of module has."""
        lines = [
            f"{self.num_chosen:,} {self.kind}s = {self.num_trainable:,} parameters,"
            f" {self.budget:.3%} of the base model's {self.num_base_parameters:,}",
            f"score {self.score}, scope {self.scope}",
        ]
        kinds: dict[str, list[int]] = {}
        for name, count in self.counts().items():
            kinds.setdefault(name.rpartition(".")[2], []).append(count)
        for kind, counts in kinds.items():
            lines.append(
                f"  {kind}: {sum(counts):,} {self.kind}s ({sum(counts) / self.num_chosen:.1%})"
                f" in {sum(c > 0 for c in counts)} of {len(counts)} modules"
            )
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the selection as one safetensors file with a JSON header."""
        tensors = {f"{name}.places": module.places for name, module in self.modules.items()}
        header = {
            "kind": self.kind,
            "modules": {name: module.shape for name, module in self.modules.items()},
            "num_base_parameters": self.num_base_parameters,
            "score": self.score,
            "scope": self.scope,
            "provenance": dict(self.provenance),
        }
        write_tensors(path, _FILE, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PlaceSelection:
        """Reads a saved selection.

        Raises:
            UserError: The file is missing, truncated, or not a selection of elements or columns.
        """
        tensors, header = read_tensors(path, _FILE)
        with reading(Path(path), _FILE):
            modules = {
                name: ModulePlaces((shape[0], shape[1]), tensors[f"{name}.places"])
                for name, shape in header.pop("modules").items()
            }
            return cls(modules=modules, **header)


def read_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, int]]:
    """Reads the shapes of all eligible modules of a saved selection, without its places.

    Raises:
        UserError: The file is missing, truncated, or not a selection of elements or columns.
    """
    header = read_header(path, _FILE)
    with reading(Path(path), _FILE):
        return {name: (shape[0], shape[1]) for name, shape in header["modules"].items()}
