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

Part = tuple[DynamicCache, torch.Tensor]


def is_plain(cache: Any) -> bool:
    """Whether a cache keeps keys and values of every token in every layer, and nothing else."""
    return isinstance(cache, DynamicCache) and all(
        isinstance(layer, DynamicLayer) and type(layer) in (DynamicLayer, _ReservedLayer)
        for layer in cache.layers
    )


def gather(parts: Sequence[Part], num_tokens: int, num_reserved: int) -> DynamicCache:
    """One cache of rows out of one or several, with room for more tokens.

    The latest tokens of all rows are put beside each other; on the left, where a cache has fewer,
    are zeros, at which nobody must look.

    Args:
        parts: Plain caches, emptied layer by layer, and the rows wanted of each, (B,) int64.
        num_tokens: How many of the latest tokens are kept.
        num_reserved: Most tokens that it will ever hold of a row, ``num_tokens`` included.
    """
    gathered = DynamicCache()
    for index in range(len(parts[0][0].layers)):
        keys, values = [], []
        for cache, rows in parts:
            layer, cache.layers[index] = cache.layers[index], None
            keys.append(layer.keys[rows])
            values.append(layer.values[rows])
        gathered.layers.append(_ReservedLayer(keys, values, num_tokens, num_reserved))
    return gathered


class _ReservedLayer(DynamicLayer):
    """A layer's ``keys`` and ``values``, views (B, H, tokens so far, D) of what is reserved."""

    def __init__(
        self,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        num_tokens: int,
        num_reserved: int,
    ) -> None:
        super().__init__()
        self.lazy_initialization(keys[0], values[0])
        self._reserved = tuple(
            _side_by_side(states, num_tokens, num_reserved) for states in (keys, values)
        )
        self.keys, self.values = (states[:, :, :num_tokens] for states in self._reserved)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens after those that are there; returns all of them."""
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        for reserved, states in zip(self._reserved, (key_states, value_states), strict=True):
            reserved[:, :, start:stop] = states
        self.keys, self.values = (states[:, :, :stop] for states in self._reserved)
        return self.keys, self.values


def _side_by_side(parts: list[torch.Tensor], num_tokens: int, num_reserved: int) -> torch.Tensor:
    """Each (B, H, its tokens, D), aligned at ``num_tokens``, in one (sum of B, H, reserved, D)."""
    num_rows, (_, num_heads, _, size) = sum(map(len, parts)), parts[0].shape
    together = parts[0].new_zeros(num_rows, num_heads, num_reserved, size)
    first = 0
    for part in parts:
        kept = min(num_tokens, part.shape[-2])
        rows = slice(first, first + len(part))
        together[rows, :, num_tokens - kept : num_tokens] = part[:, :, part.shape[-2] - kept :]
        first = rows.stop
    return together
