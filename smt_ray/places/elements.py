"""The selection of single elements by the magnitude of the warm-up's gradient (SIFT)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.places.largest import largest, share_out, threshold
from smt_ray.places.selection import ModulePlaces, PlaceSelection, Shapes

SCORE = "gradient"
"""The score of an element: the absolute value of its gradient, summed over the warm-up."""


def select_elements(
    gradient: Callable[[str], Tensor],
    shapes: Shapes,
    num_elements: int,
    *,
    num_base_parameters: int,
    scope: str,
    provenance: Mapping[str, Any] | None = None,
) -> PlaceSelection:
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
        name: ModulePlaces(shape, _compact(chosen[name], shape)) for name, shape in shapes.items()
    }
    origin = dict(provenance or {})
    return PlaceSelection("element", modules, num_base_parameters, SCORE, scope, origin)


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
