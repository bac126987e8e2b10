"""The layers of elements and columns in a model: they are put in and taken out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from smt_ray.places.layouts import Kind, PlacedLinear
from smt_ray.places.selection import ModulePlaces
from smt_ray.smt.model import check_untied, plain_linear, replace_module


def placed_modules(model: nn.Module) -> dict[str, PlacedLinear]:
    """The layers with trained elements or columns by name, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, PlacedLinear)}


def apply_places(model: nn.Module, kind: Kind, modules: Mapping[str, ModulePlaces]) -> None:
    """Makes elements or columns of a model trainable and freezes everything else, in place.

    Args:
        model: A plain model, whose weights must be whole.
        kind: What is trained.
        modules: The places by module; modules without a place stay as they are.

    Raises:
        UserError: A module is missing, not a plain linear, of another shape, tied or sharded. The
            model is then unchanged.
    """
    chosen = {name: module for name, module in modules.items() if len(module.places)}
    linears = {name: plain_linear(model, name, module.shape) for name, module in chosen.items()}
    check_untied(model, linears)
    model.requires_grad_(False)
    for name, linear in linears.items():
        module = chosen[name]
        layer = PlacedLinear.from_linear(linear, kind, module.shape, module.places)
        replace_module(model, name, layer)


def merge_places(model: nn.Module) -> None:
    """Turns the layers back into plain linears with the tuned weights, in place."""
    for name, layer in placed_modules(model).items():
        replace_module(model, name, layer.merge())
