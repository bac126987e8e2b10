"""A cache whose memory is reserved once, so that nothing is copied while texts grow.

transformers' own cache makes new tensors for every layer and token. That moves as many bytes as the
weights have, and more with every row and token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

Places = tuple[torch.Tensor, torch.Tensor]
"""The rows and the columns of tokens, each (N,) int64."""


def places_of(mask: torch.Tensor) -> Places:
    """The places where a (B, C) mask is not zero."""
    rows, columns = mask.nonzero(as_tuple=True)
    return rows, columns


def is_plain(cache: Any) -> bool:
    """Whether a cache holds keys and values of every token in every layer, and nothing else."""
    return type(cache) is DynamicCache and all(
        type(layer) in (DynamicLayer, _ReservedLayer) and getattr(layer, "is_initialized", False)
        for layer in cache.layers
    )


def can_select(cache: Any) -> bool:
    """Whether rows of a cache can be selected, so that each candidate gets a copy of its prompt.

    The states of recurrent layers cannot.
    """
    known = (DynamicLayer, DynamicSlidingWindowLayer, _ReservedLayer)
    return type(cache) is DynamicCache and all(type(layer) in known for layer in cache.layers)


def gather(
    parts: Sequence[tuple[Any, Places]], places: Places, num_rows: int, num_reserved: int
) -> DynamicCache:
    """One cache that takes its tokens from several, with room for more tokens.

    Places without a token hold zeros, which attention must not look at.

    Args:
        parts: Plain caches (:func:`is_plain`) with the places of the wanted tokens. The caches are
            emptied, layer by layer.
        places: The new places of the tokens, in the order of the parts.
        num_rows: The number of rows of the new cache.
        num_reserved: The largest number of tokens of a row.
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
    """The keys and values of a layer: views (B, H, tokens so far, D) of reserved tensors.

    It can be extended and cropped. transformers' other changes of a cache are not supported.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(
        self,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        places: Places,
        num_rows: int,
        num_tokens: int,
        num_reserved: int,
    ) -> None:
        DynamicLayer.__init__(self)
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
