"""The adapter of elements or columns: one file with the tuned values and their places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from smt_ray.places.layouts import Kind
from smt_ray.places.model import apply_places, placed_modules
from smt_ray.places.selection import ModulePlaces
from smt_ray.smt.tensorfile import read_tensors, reading, write_tensors

FILES: dict[Kind, str] = {
    "element": "sift_adapter.safetensors",
    "column": "column_adapter.safetensors",
}
"""The file of each kind of adapter, in its folder."""

_KIND = "adapter of elements or columns"


def find_kind(directory: Path) -> Kind | None:
    """What the adapter in a folder has trained; None if it is of another method."""
    return next((kind for kind, file in FILES.items() if (directory / file).exists()), None)


def save_places(
    model: nn.Module, values: Mapping[str, Tensor], origin: Mapping[str, Any], directory: Path
) -> None:
    """Writes the trained values of a model.

    Args:
        model: A model with layers of elements or columns.
        values: Module -> its tuned values, (k,) or (M, O), on the CPU.
        origin: The origin of the selection, as JSON values.
        directory: The folder, which must exist.
    """
    layers = placed_modules(model)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors |= {f"{name}.places": layer.layout.places, f"{name}.values": values[name]}
    header = {
        "modules": {name: layer.layout.shape for name, layer in layers.items()},
        "selection": dict(origin),
    }
    kind = next(iter(layers.values())).layout.kind
    write_tensors(directory / FILES[kind], _KIND, tensors, header)


def load_places(model: nn.Module, directory: Path) -> dict[str, Any]:
    """Puts saved values into their base model, frozen.

    Returns:
        The origin of their selection.

    Raises:
        UserError: The file is missing, truncated or edited, or the model has other modules.
    """
    kind = cast(Kind, find_kind(directory))
    path = directory / FILES[kind]
    tensors, header = read_tensors(path, _KIND)
    with reading(path, _KIND):
        modules = {
            name: ModulePlaces((shape[0], shape[1]), tensors[f"{name}.places"])
            for name, shape in header["modules"].items()
        }
        values = {name: tensors[f"{name}.values"] for name in modules}
        origin = dict(header["selection"])
        for name, module in modules.items():
            _check_places(kind, module, values[name])
    apply_places(model, kind, modules)
    for name, layer in placed_modules(model).items():
        layer.blocks.data.copy_(values[name])
        layer.blocks.requires_grad_(False)
        layer.refresh()
    return origin


def _check_places(kind: Kind, module: ModulePlaces, values: Tensor) -> None:
    places, (out_features, in_features) = module.places, module.shape
    number = in_features if kind == "column" else out_features * in_features
    shape = (len(places), out_features) if kind == "column" else (len(places),)
    if places.ndim != 1 or values.shape != shape or not len(places):
        raise ValueError("it must have the values of each place")
    if int(places[0]) < 0 or int(places[-1]) >= number or not bool(places.diff().gt(0).all()):
        raise ValueError("the places must be distinct numbers within the weight, ascending")
