"""The part of an input that sparse layers keep for backward, once for layers that share it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef


def version(tensor: Tensor) -> int:
    """The number of in-place changes of a tensor; -1 if they are not counted."""
    return -1 if tensor.is_inference() else tensor._version


class KeptInput:
    """A compact copy of the input columns that some block uses, or the input itself.

    The input itself is kept if blocks use all of its columns. Layers that share an input tensor (q,
    k and v) share this object and the copy, which the first of them makes.

    Attributes:
        columns: The distinct block columns, ascending; None if the input itself is kept.
    """

    def __init__(self, in_features: int, block_size: int, columns: Iterable[int]) -> None:
        """Decides what to keep.

        Args:
            in_features: The number I of input features.
            block_size: The block size L.
            columns: The block columns of all layers that share the input.
        """
        distinct = tuple(sorted(set(columns)))
        self.in_features, self.block_size = in_features, block_size
        self.columns = distinct if len(distinct) * block_size < in_features else None
        self._last: tuple[TensorWeakRef, int, TensorWeakRef] | None = None
        self._numbers: Tensor | None = None  # of single columns, on the device of the input

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None, "_numbers": None}  # a copied model has seen no input

    def start(self, column: int) -> int:
        """The first feature of a block column among the kept features."""
        place = column if self.columns is None else self.columns.index(column)
        return place * self.block_size

    def of(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The kept part of an input.

        Args:
            x: The input of the layer, (..., I).
            dtype: The dtype of the copy.

        Returns:
            The kept features, (T, K); a view of x if all of it is kept.
        """
        if self.columns is None:
            return self.select(x, dtype)
        if (kept := self._recall(x, dtype)) is not None:
            return kept
        kept = self.select(x, dtype)
        self._last = TensorWeakRef(x), version(x), TensorWeakRef(kept)
        return kept

    def select(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The same as :meth:`of`, without remembering it for other layers."""
        size, flat = self.block_size, x.detach().reshape(-1, self.in_features)
        if self.columns is None:
            return flat
        if size == 1:
            return flat.index_select(1, self._numbers_on(flat.device)).to(dtype)
        # Slices would be views, which keep the whole input alive.
        kept = torch.cat([flat[:, c * size : (c + 1) * size] for c in self.columns], dim=1)
        return kept.to(dtype)

    def _numbers_on(self, device: torch.device) -> Tensor:
        if self._numbers is None or self._numbers.device != device:
            self._numbers = torch.tensor(self.columns, device=device)
        return self._numbers

    def _recall(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The copy that another layer made of the same tensor, if its backward still holds it."""
        if self._last is None:
            return None
        source, made_at, copy = self._last
        kept: Tensor | None = copy()
        same = source() is x and made_at == version(x)
        return kept if same and kept is not None and kept.dtype == dtype else None
