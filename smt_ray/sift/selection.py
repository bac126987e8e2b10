"""The selection of single elements by the magnitude of the warm-up's gradient."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.sift.largest import largest, threshold
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

_KIND = "element selection"

Shapes = Mapping[str, tuple[int, int]]
"""Module name -> (out_features, in_features)."""


@dataclass(frozen=True, eq=False)
class ModuleElements:
    """The chosen elements of one module.

    Attributes:
        shape: The (out_features, in_features) of its weight.
        elements: The numbers of the elements, row * in_features + column, ascending, on the CPU:
            (k,) int32, or int64 for a weight of 2^31 elements and more.
    """

    shape: tuple[int, int]
    elements: Tensor


@dataclass(frozen=True, eq=False)
class ElementSelection:
    """The chosen elements of a model.

    Attributes:
        modules: All eligible modules, in the model's order; some may have no chosen element.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        scope: The scope: ``per_module`` or ``global``.
        provenance: The origin of the gradient, as JSON values.
    """

    modules: Mapping[str, ModuleElements]
    num_base_parameters: int
    scope: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_trainable(self) -> int:
        """The number of chosen elements of all modules."""
        return sum(self.counts().values())

    @property
    def budget(self) -> float:
        """The trainable parameters as a fraction of the base model's."""
        return self.num_trainable / self.num_base_parameters

    @property
    def origin(self) -> dict[str, Any]:
        """What an adapter says about the selection of its elements, as JSON values."""
        names = ("scope", "budget", "num_base_parameters")
        return {name: getattr(self, name) for name in names}

    def counts(self) -> dict[str, int]:
        """Module name -> the number of its chosen elements."""
        return {name: len(module.elements) for name, module in self.modules.items()}

    def summary(self) -> str:
        """A few lines: the number of elements, and how many of them each kind of module has."""
        lines = [
            f"{self.num_trainable:,} single elements, {self.budget:.3%} of the base model's "
            f"{self.num_base_parameters:,}",
            f"the largest gradients of the warm-up, scope {self.scope}",
        ]
        kinds: dict[str, list[int]] = {}
        for name, count in self.counts().items():
            kinds.setdefault(name.rpartition(".")[2], []).append(count)
        for kind, counts in kinds.items():
            lines.append(
                f"  {kind}: {sum(counts):,} elements ({sum(counts) / self.num_trainable:.1%}) "
                f"in {sum(c > 0 for c in counts)} of {len(counts)} modules"
            )
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the selection as one safetensors file with a JSON header."""
        tensors = {f"{name}.elements": module.elements for name, module in self.modules.items()}
        header = {
            "modules": {name: module.shape for name, module in self.modules.items()},
            "num_base_parameters": self.num_base_parameters,
            "scope": self.scope,
            "provenance": dict(self.provenance),
        }
        write_tensors(path, _KIND, tensors, header)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ElementSelection:
        """Reads a saved selection.

        Raises:
            UserError: The file is missing, truncated, or not a selection of elements.
        """
        tensors, header = read_tensors(path, _KIND)
        with reading(Path(path), _KIND):
            modules = {
                name: ModuleElements((shape[0], shape[1]), tensors[f"{name}.elements"])
                for name, shape in header.pop("modules").items()
            }
            return cls(modules=modules, **header)


def select_elements(
    gradient: Callable[[str], Tensor],
    shapes: Shapes,
    num_elements: int,
    *,
    num_base_parameters: int,
    scope: str,
    provenance: Mapping[str, Any] | None = None,
) -> ElementSelection:
    """Chooses the elements with the largest absolute gradients.

    One gradient is in memory at a time: ``global`` reads each of them three times.

    Args:
        gradient: A function that returns the summed gradient of a module, (O, I) float32.
        shapes: The eligible modules.
        num_elements: The number of elements of all modules together.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        scope: ``per_module`` for the same share of each weight, as SIFT was published; ``global``
            for one ranking of all elements.
        provenance: The origin of the gradients, as JSON values.

    Raises:
        UserError: A gradient is not finite, or all of them are zero.
    """
    has_gradient = False

    def magnitudes(name: str) -> Tensor:
        nonlocal has_gradient
        found = gradient(name).detach().float().abs().flatten()
        if not bool(torch.isfinite(found).all()):
            raise UserError(
                "gradients",
                f"must be finite; those of {name} are not",
                fix="look for overflowing gradients in the warm-up",
            )
        has_gradient = has_gradient or bool(found.any())
        return found

    if scope == "per_module":
        counts = share_out(num_elements, {name: o * i for name, (o, i) in shapes.items()})
        chosen = {name: largest(magnitudes(name), counts[name]) for name in shapes}
    else:
        chosen = _largest_of_all(magnitudes, list(shapes), num_elements)
    if not has_gradient:
        raise UserError(
            "gradients",
            "must not all be zero",
            fix="check that the warm-up's loss depends on the eligible modules",
        )
    modules = {
        name: ModuleElements(shape, _compact(chosen[name], shape)) for name, shape in shapes.items()
    }
    return ElementSelection(modules, num_base_parameters, scope, dict(provenance or {}))


def number_of_elements(budget: float, shapes: Shapes, num_base_parameters: int) -> int:
    """The number of elements that is nearest to a budget.

    Args:
        budget: The trained elements as a fraction of the base model's parameters.
        shapes: The eligible modules.
        num_base_parameters: The number of parameters of the base model, tied ones once.

    Raises:
        UserError: It is less than 1, or more than the eligible modules have.
    """
    count, eligible = round(budget * num_base_parameters), sum(o * i for o, i in shapes.values())
    if not 1 <= count <= eligible:
        raise UserError(
            "sift.budget",
            f"must come to 1 to {eligible:,} elements, which are {1 / num_base_parameters:.3g} to"
            f" {eligible / num_base_parameters:.4g} of the base model's parameters",
            got=budget,
            fix="change it or target_modules",
        )
    return count


def share_out(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Shares a number out in proportion to sizes, so that the shares add up to it."""
    total, shares, before = sum(sizes.values()), {}, 0
    for name, size in sizes.items():
        # Rounding the sums and not the shares keeps each share within one of its exact value.
        before_next = before + size
        shares[name] = count * before_next // total - count * before // total
        before = before_next
    return shares


def _largest_of_all(
    magnitudes: Callable[[str], Tensor], names: list[str], count: int
) -> dict[str, Tensor]:
    """The elements of each module among the largest of all modules."""
    cut, num_equal = threshold(map(magnitudes, names), map(magnitudes, names), count)
    chosen = {}
    for name in names:
        values = magnitudes(name)
        equal = (values == cut).nonzero().flatten()[:num_equal]  # the first ones, as for blocks
        num_equal -= len(equal)
        above = (values > cut).nonzero().flatten()
        chosen[name] = torch.cat([above, equal]).sort().values
    return chosen


def _compact(elements: Tensor, shape: tuple[int, int]) -> Tensor:
    fits = shape[0] * shape[1] <= torch.iinfo(torch.int32).max
    return elements.to(torch.int32 if fits else torch.int64)
