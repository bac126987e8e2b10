"""The layouts of single elements and of whole columns, and the layer that trains them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.layout import Layout
from smt_ray.smt.layers.partial import PartialLinear
from smt_ray.smt.linears import Shell

Kind = Literal["element", "column"]


@dataclass(frozen=True, eq=False)
class PlaceLayout(Layout):
    """Places that are numbers.

    Attributes:
        shape: The (O, I) of the weight.
        places: The numbers, (k,) int32 or int64 on the CPU.
        transposed: Whether the weight is stored as (I, O).
    """

    shape: tuple[int, int]
    places: Tensor
    transposed: bool = False

    @property
    def stored_shape(self) -> tuple[int, int]:
        """See :class:`~smt_ray.smt.layers.layout.Layout`."""
        return self.shape[::-1] if self.transposed else self.shape

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What the numbers count."""

    def scatter_shard_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Refuses a ``DTensor``.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"a weight with trained {self.kind}s",
            "must not be sharded by FSDP2",
            got=type(weight).__name__,
            fix="use DeepSpeed, or square blocks",
        )


class ElementLayout(PlaceLayout):
    """The places of k single elements, whose numbers are row * I + col.

    The gradient of the whole weight is dW = dy^T x (equation 2 of the paper of SMT). Single
    elements have no smaller product, since they lie in nearly all rows and columns. So dW is made,
    the k elements are copied out of it, and it is freed before the next layer's backward begins.
    """

    @property
    def kind(self) -> Kind:
        """Elements."""
        return "element"

    def make_indices(self) -> Tensor:
        """The numbers of the elements in the stored weight, (k,)."""
        if not self.transposed:
            return self.places
        out_features, in_features = self.shape
        rows, cols = self.places // in_features, self.places % in_features
        return cols * out_features + rows

    def make_kept_input(self) -> KeptInput:
        """The whole input."""
        in_features = self.shape[1]
        return KeptInput(in_features, in_features, (0,))

    def starts(self, kept_input: KeptInput) -> list[int]:
        """No places, since all columns are used."""
        return []

    def gather(self, weight: Tensor, indices: Tensor) -> Tensor:
        """A copy (k,) of the elements."""
        return weight.reshape(-1)[indices]

    def scatter_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Writes the elements (k,)."""
        weight.view(-1)[indices] = values.to(weight.dtype)

    def gradient(
        self, grad_y: Tensor, kept: Tensor, starts: Sequence[int], indices: Tensor
    ) -> Tensor:
        """The gradient of the elements, (k,)."""
        first, second = (kept, grad_y) if self.transposed else (grad_y, kept)
        dense = torch.mm(first.t(), second)  # as the weight is stored
        return self.gather(dense, indices)


class ColumnLayout(PlaceLayout):
    """The places of M whole input columns, whose values are (M, O).

    Column c of dW = dy^T x is dy^T x[:, c]. So backward needs the M columns of x only, and makes
    one product, (M, T) by (T, O).
    """

    @property
    def kind(self) -> Kind:
        """Columns."""
        return "column"

    def make_indices(self) -> Tensor:
        """The numbers of the columns, (M,); those of a transposed weight are its rows."""
        return self.places

    def make_kept_input(self) -> KeptInput:
        """The trained columns of the input."""
        return KeptInput(self.shape[1], 1, self.places.tolist())

    def starts(self, kept_input: KeptInput) -> list[int]:
        """No places: no other layer shares the kept columns, which are in ascending order."""
        return []

    def gather(self, weight: Tensor, indices: Tensor) -> Tensor:
        """A copy (M, O) of the columns."""
        return weight[indices] if self.transposed else weight[:, indices].t().contiguous()

    def scatter_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Writes the columns (M, O)."""
        if self.transposed:
            weight[indices] = values.to(weight.dtype)
        else:
            weight[:, indices] = values.t().to(weight.dtype)

    def gradient(
        self, grad_y: Tensor, kept: Tensor, starts: Sequence[int], indices: Tensor
    ) -> Tensor:
        """The gradients of the columns, (M, O)."""
        return torch.mm(kept.t(), grad_y)


_LAYOUTS: dict[Kind, type[PlaceLayout]] = {"element": ElementLayout, "column": ColumnLayout}


class PlacedLinear(PartialLinear):
    """A linear layer of which single elements or whole columns of the weight are trained.

    Attributes:
        blocks: The trained values: (k,) elements, or (M, O) columns.
        indices: The numbers of the elements or columns of the stored weight.
        layout: The same places, and the shape of the weight.
    """

    layout: PlaceLayout

    @classmethod
    def from_linear(
        cls, linear: nn.Module, kind: Kind, shape: tuple[int, int], places: Tensor
    ) -> PlacedLinear:
        """The layer with the weight and the bias of a linear, which are not copied.

        Args:
            linear: A plain linear (:func:`~smt_ray.smt.linears.is_plain_linear`).
            kind: What is trained.
            shape: The (out_features, in_features) of the linear.
            places: The distinct numbers of the elements (row * I + col) or columns, ascending.
        """
        shell = Shell.of(linear)
        layout = _LAYOUTS[kind](shape, places, shell.transposed)
        weight, bias = (getattr(linear, name) for name in ("weight", "bias"))
        return cls(weight, bias, layout, shell).train(linear.training)
