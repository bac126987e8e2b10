"""Sparse layers in a model: they are put in, taken out and counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.layers.delta import BlockDelta
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.linear import SparseLinear
from smt_ray.smt.layers.saving import save_as_before, save_as_plain
from smt_ray.smt.layers.sharded import check_whole
from smt_ray.smt.linears import is_plain_linear, linear_shape
from smt_ray.smt.selection import Selection

Model = TypeVar("Model", bound=nn.Module)

_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "down_proj")

ORIGIN_ATTRIBUTE = "smt_origin"
"""The attribute of an adapted model with the origin of its blocks, which adapters save."""


@dataclass(frozen=True)
class TrainableParameters:
    """How much of a model is trained.

    Attributes:
        trainable: The number of parameters that require gradients.
        base: The number of parameters of the base model, tied ones once. Blocks are part of the
            weights and are not counted a second time.
    """

    trainable: int
    base: int

    @property
    def percent_of_base(self) -> float:
        """The paper's #Params% of SMT: trainable over base, in percent."""
        return 100 * self.trainable / self.base

    @property
    def percent_of_base_and_adapter(self) -> float:
        """The percentage that peft prints: trainable over base and adapter together."""
        return 100 * self.trainable / (self.base + self.trainable)

    def __str__(self) -> str:
        return (
            f"trainable params: {self.trainable:,} || base params: {self.base:,} || "
            f"{self.percent_of_base:.4f}% of base "
            f"({self.percent_of_base_and_adapter:.4f}% of base + adapter)"
        )


def sparse_modules(model: nn.Module) -> dict[str, SparseLinear]:
    """The sparse layers of a model by name, in the model's order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, SparseLinear)}


def apply_selection(
    model: Model, selection: Selection, *, dtype: torch.dtype | None = None
) -> Model:
    """Makes the selected blocks of a model trainable and freezes everything else, in place.

    Modules without a chosen block stay as they are. A transformers model keeps its
    ``save_pretrained``, which writes a plain model with the tuned weights.

    Args:
        model: A plain model, whose weights must be whole: FSDP and ZeRO-3 come afterwards.
        selection: The selected blocks.
        dtype: The dtype of the trained blocks. By default it is float32, or the weight's if that is
            wider, because small updates are lost in the rounding of bfloat16.

    Raises:
        UserError: A module is missing, not a plain linear, of another shape, tied to another or
            sharded, or the model already has sparse layers. The model is then unchanged.
    """
    chosen = {name: module for name, module in selection.modules.items() if len(module.indices)}
    shapes = {name: module.shape for name, module in chosen.items()}
    indices = {name: module.indices for name, module in chosen.items()}
    return make_sparse(model, selection.block_size, shapes, indices, selection.origin, dtype=dtype)


def make_sparse(
    model: Model,
    block_size: int,
    shapes: Mapping[str, tuple[int, int]],
    indices: Mapping[str, Tensor],
    origin: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
) -> Model:
    """Makes given blocks trainable; see :func:`apply_selection`.

    Args:
        model: A plain model.
        block_size: The block size L.
        shapes: Module name -> the (out_features, in_features) that its weight must have.
        indices: Module name -> its block indices (row, col), (M, 2), at least one.
        origin: The origin of the blocks, as JSON values.
        dtype: The dtype of the blocks; see :func:`apply_selection`.
    """
    if sparse_modules(model):
        raise UserError(
            "model",
            "must have no sparse layers yet",
            fix="call unload or merge_and_unload first",
        )
    linears = {name: plain_linear(model, name, shape) for name, shape in shapes.items()}
    check_untied(model, linears)
    model.requires_grad_(False)
    layers: dict[str, SparseLinear] = {}
    for name, linear in linears.items():
        layers[name] = SparseLinear.from_linear(linear, indices[name], block_size, dtype)
        replace_module(model, name, layers[name])
    share_inputs(layers)
    setattr(model, ORIGIN_ATTRIBUTE, dict(origin))
    save_as_plain(model)
    return model


def merge_and_unload(model: Model) -> Model:
    """Turns the sparse layers back into plain linears with the tuned weights, in place.

    Parameters stay frozen, as with peft.

    Raises:
        UserError: The model has no sparse layers.
    """
    return _take_out(model, tuned=True)


def unload(model: Model) -> Model:
    """Turns the sparse layers back into the base model's linears, bit for bit, in place.

    Raises:
        UserError: The model has no sparse layers.
    """
    return _take_out(model, tuned=False)


def refresh(model: nn.Module) -> None:
    """Writes the blocks into the weights.

    A forward pass and a saved state need no call: they write what is trained. It is for whoever
    reads the weights themselves, and for frozen blocks that were changed through ``.data``. Sharded
    weights get them where this is possible; see
    :meth:`~smt_ray.smt.layers.linear.SparseLinear.refresh`.
    """
    for layer in sparse_modules(model).values():
        layer.refresh()


def trainable_parameters(model: nn.Module) -> TrainableParameters:
    """Counts the trainable parameters and those of the base model."""
    parameters = list(model.parameters())  # tied ones once
    in_blocks = sum(layer.blocks.numel() for layer in sparse_modules(model).values())
    return TrainableParameters(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        base=sum(p.numel() for p in parameters) - in_blocks,
    )


def print_trainable_parameters(model: nn.Module) -> None:
    """Prints :func:`trainable_parameters` in one line."""
    print(trainable_parameters(model))


def find_ties(model: nn.Module, linears: Mapping[str, nn.Module]) -> dict[str, str]:
    """The linears whose weight has another use in the model: name -> the other use."""
    uses: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        uses.setdefault(id(parameter), []).append(name)
    ties: dict[str, str] = {}
    for name, linear in linears.items():
        for use in uses[id(linear.get_parameter("weight"))]:
            if use != f"{name}.weight":
                ties.setdefault(name, use)
    return ties


def check_untied(
    model: nn.Module, linears: Mapping[str, nn.Module], *, field: str = "target_modules"
) -> None:
    """Checks that weights are not tied: blocks would change all uses, with the gradient of one.

    Args:
        model: The model.
        linears: The linears by name.
        field: The name of the field in an error.

    Raises:
        UserError: The weight of a linear has another use in the model.
    """
    for name, other in find_ties(model, linears).items():
        raise UserError(
            field,
            f"must name linears with weights of their own, but {name} is tied to {other}",
            got=name,
            fix="leave it out, or use a model without tied weights",
        )


def share_inputs(layers: Mapping[str, SparseLinear | BlockDelta]) -> None:
    """Makes layers with the same parent and ``in_features`` (q, k and v) share their input.

    Output projections are separate, because they read the result of the others. Layers that do not
    get the same tensor keep their own input, and a little more of it than they need.

    Args:
        layers: The name of each linear -> its layer, all with one block size.
    """
    siblings: dict[tuple[str, bool, int], list[SparseLinear | BlockDelta]] = {}
    for name, layer in layers.items():
        parent, _, last = name.rpartition(".")
        key = (parent, last in _OUTPUT_PROJECTIONS, layer.in_features)
        siblings.setdefault(key, []).append(layer)
    for (*_, in_features), group in siblings.items():
        columns = [col for layer in group for col in layer.layout.cols]
        kept = KeptInput(in_features, group[0].block_size, columns)
        for layer in group:
            layer.share_input(kept)


def plain_linear(model: nn.Module, name: str, shape: tuple[int, int]) -> nn.Module:
    """The linear of a name.

    Raises:
        UserError: It is missing, not a plain linear, of another shape or sharded.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError as error:
        raise UserError(
            f"module {name}", "must be in the model", fix="select blocks on this model"
        ) from error
    if not is_plain_linear(module):
        raise UserError(
            f"module {name}", "must be a plain torch.nn.Linear", got=type(module).__name__
        )
    check_whole(module.get_parameter("weight"), f"module {name}")
    if linear_shape(module) != tuple(shape):
        raise UserError(
            f"module {name}",
            f"must have the selection's shape {tuple(shape)}",
            got=linear_shape(module),
            fix="select blocks on this model",
        )
    return module


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts another module in the place of a name."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def _take_out(model: Model, *, tuned: bool) -> Model:
    layers = sparse_modules(model)
    if not layers:
        raise UserError("model", "must have sparse layers", got=type(model).__name__)
    for name, layer in layers.items():
        replace_module(model, name, layer.merge() if tuned else layer.unmerge())
    model.__dict__.pop(ORIGIN_ATTRIBUTE, None)
    save_as_before(model)
    return model
