"""The linear layer of which single elements are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smt_ray.errors import UserError
from smt_ray.smt.layers.kept_input import KeptInput
from smt_ray.smt.layers.layout import Layout
from smt_ray.smt.layers.partial import PartialLinear
from smt_ray.smt.linears import Shell


@dataclass(frozen=True, eq=False)
class ElementLayout(Layout):
    """The places of k single elements.

    The gradient of the whole weight is dW = dy^T x (equation 2 of the paper of SMT). Single
    elements have no smaller product, since they lie in nearly all rows and columns. So dW is made,
    the k elements are copied out of it, and it is freed before the next layer's backward begins.

    Attributes:
        shape: The (O, I) of the weight.
        elements: The numbers of the elements, row * I + col, (k,) int32 or int64 on the CPU.
        transposed: Whether the weight is stored as (I, O).
    """

    shape: tuple[int, int]
    elements: Tensor
    transposed: bool = False

    @property
    def stored_shape(self) -> tuple[int, int]:
        """See :class:`Layout`."""
        return self.shape[::-1] if self.transposed else self.shape

    def make_indices(self) -> Tensor:
        """The numbers of the elements in the stored weight, (k,)."""
        if not self.transposed:
            return self.elements
        out_features, in_features = self.shape
        rows, cols = self.elements // in_features, self.elements % in_features
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

    def scatter_shard_(self, weight: Tensor, indices: Tensor, values: Tensor) -> None:
        """Refuses a ``DTensor``.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "a weight with trained elements",
            "must not be sharded by FSDP2",
            got=type(weight).__name__,
            fix="use DeepSpeed, or method smt",
        )

    def gradient(
        self, grad_y: Tensor, kept: Tensor, starts: Sequence[int], indices: Tensor
    ) -> Tensor:
        """The gradient of the elements, (k,)."""
        first, second = (kept, grad_y) if self.transposed else (grad_y, kept)
        dense = torch.mm(first.t(), second)  # as the weight is stored
        return self.gather(dense, indices)


class ElementLinear(PartialLinear):
    """A linear layer of which k elements of the weight are trained.

    Attributes:
        blocks: The trained elements, (k,).
        indices: The numbers of the elements in the stored weight, (k,).
        layout: The same places, and the shape of the weight.
    """

    layout: ElementLayout

    @classmethod
    def from_linear(
        cls, linear: nn.Module, shape: tuple[int, int], elements: Tensor
    ) -> ElementLinear:
        """The layer with the weight and the bias of a linear, which are not copied.

        Args:
            linear: A plain linear (:func:`~smt_ray.smt.linears.is_plain_linear`).
            shape: Its (out_features, in_features).
            elements: The numbers of the elements, row * I + col, (k,), distinct.
        """
        shell = Shell.of(linear)
        layout = ElementLayout(shape, elements, shell.transposed)
        weight, bias = (getattr(linear, name) for name in ("weight", "bias"))
        return cls(weight, bias, layout, shell).train(linear.training)
