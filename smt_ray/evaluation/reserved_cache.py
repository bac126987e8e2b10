"""Keys and values in memory that is reserved once: nothing is copied while texts grow.

transformers' own cache is a new tensor a layer and token, which moves as many bytes as the weights
have, and more with every row and token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Places = tuple[torch.Tensor, torch.Tensor]
"""Rows and columns of tokens, each (N,) int64."""


def is_plain(cache: Any) -> bool:
    """Whether a cache holds keys and values of every token in every layer, and nothing else."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, _ReservedLayer) and layer.is_initialized
        for layer in cache.layers
    )


def gather(
    parts: Sequence[tuple[DynamicCache, Places]], places: Places, num_rows: int, num_reserved: int
) -> DynamicCache:
    """One cache out of one or several, with room for more tokens.

    Where no token is put are zeros, at which nobody must look.

    Args:
        parts: Plain caches, emptied layer by layer, and the places of the tokens wanted of each.
        places: Where they go, in the parts' order.
        num_rows: Of the cache that is made.
        num_reserved: Most tokens that it will ever hold of a row.
    """
    gathered, num_tokens = DynamicCache(), int(places[1].max()) + 1
    for index in range(len(parts[0][0].layers)):
        keys, values = [], []
        for cache, (rows, columns) in parts:
            layer, cache.layers[index] = cache.layers[index], None
            wanted = rows.to(layer.device), slice(None), columns.to(layer.device)
            keys.append(layer.keys[wanted])
            values.append(layer.values[wanted])
        shape = num_rows, num_tokens, num_reserved
        gathered.layers.append(_ReservedLayer(keys, values, places, *shape))
    return gathered


class _ReservedLayer(DynamicLayer):
    """A layer's ``keys`` and ``values``, views (B, H, tokens so far, D) of what is reserved.

    It is written to, and cropped; of transformers' other changes it knows nothing.
    """

    def __init__(
        self,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        places: Places,
        num_rows: int,
        num_tokens: int,
        num_reserved: int,
    ) -> None:
        super().__init__()
        self.lazy_initialization(keys[0], values[0])
        rows, columns = (numbers.to(self.device) for numbers in places)
        self._reserved = []
        for states in (torch.cat(keys), torch.cat(values)):  # each (N, H, D)
            _, num_heads, size = states.shape
            reserved = states.new_zeros(num_rows, num_heads, num_reserved, size)
            reserved[rows, :, columns] = states
            self._reserved.append(reserved)
        self.keys, self.values = (states[:, :, :num_tokens] for states in self._reserved)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens after those that are there; returns all of them."""
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        assert stop <= self._reserved[0].shape[-2], "more tokens than were reserved"
        for reserved, states in zip(self._reserved, (key_states, value_states), strict=True):
            reserved[:, :, start:stop] = states
        self.keys, self.values = (states[:, :, :stop] for states in self._reserved)
        return self.keys, self.values
