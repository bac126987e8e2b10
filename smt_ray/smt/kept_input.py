"""What layers that see one input keep of it for backward: once, and no more than they need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef


def version(tensor: Tensor) -> int:
    """Rises with every in-place change; -1 where that is not counted."""
    return -1 if tensor.is_inference() else tensor._version


class KeptInput:
    """A compact copy of the input columns that some block sees, or the input itself.

    The copy is the smaller unless the columns are all there are. Layers that share an input tensor
    (q, k and v) share the object, and with it the one copy: the first of them makes it.

    Attributes:
        columns: The distinct block columns, ascending; None where the input itself is kept.
    """

    def __init__(self, in_features: int, block_size: int, columns: Iterable[int]) -> None:
        """Decides what to keep.

        Args:
            in_features: I.
            block_size: L.
            columns: Block columns of all layers that share the input.
        """
        distinct = tuple(sorted(set(columns)))
        self.in_features, self.block_size = in_features, block_size
        self.columns = distinct if len(distinct) * block_size < in_features else None
        self._last: tuple[TensorWeakRef, int, TensorWeakRef] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}  # a copied model has seen no input

    @property
    def num_features(self) -> int:
        """Input features kept a token."""
        return self.in_features if self.columns is None else len(self.columns) * self.block_size

    def start(self, column: int) -> int:
        """Where a block column begins in what is kept."""
        place = column if self.columns is None else self.columns.index(column)
        return place * self.block_size

    def of(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What is kept of an input.

        Args:
            x: (..., I), as the layer was given it.
            dtype: Of the copy.

        Returns:
            (T, K); x's own memory where all of it is kept.
        """
        if self.columns is None:
            return x.detach().reshape(-1, self.in_features)
        if (kept := self._recall(x, dtype)) is not None:
            return kept
        size, flat = self.block_size, x.detach().reshape(-1, self.in_features)
        # A copy, since slices would be views that keep the whole input alive.
        kept = torch.cat([flat[:, c * size : (c + 1) * size] for c in self.columns], dim=1)
        kept = kept.to(dtype)
        self._last = TensorWeakRef(x), version(x), TensorWeakRef(kept)
        return kept

    def _recall(self, x: Tensor, dtype: torch.dtype) -> Tensor | None:
        """A sibling's copy of the same tensor, where its backward still holds it."""
        if self._last is None:
            return None
        source, made_at, copy = self._last
        kept: Tensor | None = copy()
        same = source() is x and made_at == version(x)
        return kept if same and kept is not None and kept.dtype == dtype else None
