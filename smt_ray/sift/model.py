"""The layers of SIFT in a model: they are put in, counted and taken out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from smt_ray.sift.layer import ElementLinear
from smt_ray.sift.selection import ModuleElements
from smt_ray.smt.model import check_untied, plain_linear, replace_module


def element_modules(model: nn.Module) -> dict[str, ElementLinear]:
    """The layers with trained elements by name, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, ElementLinear)}


def apply_elements(model: nn.Module, modules: Mapping[str, ModuleElements]) -> None:
    """Makes elements of a model trainable and freezes everything else, in place.

    Args:
        model: A plain model, whose weights must be whole.
        modules: The elements by module; modules without an element stay as they are.

    Raises:
        UserError: A module is missing, not a plain linear, of another shape, tied or sharded. The
            model is then unchanged.
    """
    chosen = {name: module for name, module in modules.items() if len(module.elements)}
    linears = {name: plain_linear(model, name, module.shape) for name, module in chosen.items()}
    check_untied(model, linears)
    model.requires_grad_(False)
    for name, linear in linears.items():
        module = chosen[name]
        layer = ElementLinear.from_linear(linear, module.shape, module.elements)
        replace_module(model, name, layer)


def merge_elements(model: nn.Module) -> None:
    """Turns the layers back into plain linears with the tuned weights, in place."""
    for name, layer in element_modules(model).items():
        replace_module(model, name, layer.merge())
