"""The adapter of SIFT: one file with the tuned elements and their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from smt_ray.sift.model import apply_elements, element_modules
from smt_ray.sift.selection import ModuleElements
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

TENSORS_FILE = "sift_adapter.safetensors"

_KIND = "SIFT adapter"


def save_elements(
    model: nn.Module, values: Mapping[str, Tensor], origin: Mapping[str, Any], directory: Path
) -> None:
    """Writes the elements of a model.

    Args:
        model: A model with layers of SIFT.
        values: Module -> its tuned elements, (k,), on the CPU.
        origin: The origin of the selection, as JSON values.
        directory: The folder, which must exist.
    """
    layers = element_modules(model)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors |= {f"{name}.elements": layer.layout.elements, f"{name}.values": values[name]}
    header = {
        "modules": {name: layer.layout.shape for name, layer in layers.items()},
        "selection": dict(origin),
    }
    write_tensors(directory / TENSORS_FILE, _KIND, tensors, header)


def load_elements(model: nn.Module, directory: Path) -> dict[str, Any]:
    """Puts saved elements into their base model, frozen.

    Returns:
        The origin of their selection.

    Raises:
        UserError: The file is missing, truncated or edited, or the model has other modules.
    """
    path = directory / TENSORS_FILE
    tensors, header = read_tensors(path, _KIND)
    with reading(path, _KIND):
        modules = {
            name: ModuleElements((shape[0], shape[1]), tensors[f"{name}.elements"])
            for name, shape in header["modules"].items()
        }
        values = {name: tensors[f"{name}.values"] for name in modules}
        origin = dict(header["selection"])
        for name, module in modules.items():
            _check_elements(module, values[name])
    apply_elements(model, modules)
    for name, layer in element_modules(model).items():
        layer.blocks.data.copy_(values[name])
        layer.blocks.requires_grad_(False)
        layer.refresh()
    return origin


def _check_elements(module: ModuleElements, values: Tensor) -> None:
    elements, size = module.elements, module.shape[0] * module.shape[1]
    if elements.ndim != 1 or values.shape != elements.shape or not len(elements):
        raise ValueError("it must have one value for each element")
    if int(elements[0]) < 0 or int(elements[-1]) >= size or not bool(elements.diff().gt(0).all()):
        raise ValueError("the elements must be distinct numbers within the weight, ascending")
