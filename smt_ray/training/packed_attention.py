"""Attention over packed rows: each row attends to its own tokens, and only those are computed.

transformers calls an attention function that is registered by name. This one gets the layout of the
rows as a further keyword of the model's forward. It computes the queries of each segment against
the keys of that segment and of the segments before it in its row. Apart from the causal half, these
are exactly the pairs that the mask allows. Segments of the same shape are computed together. All
other layers work as usual.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.data.packing import PackedRows

KERNEL = "smt_ray_packed"
KEYWORD = "packed_rows"  # a keyword of the model's forward, which its attention layers get too

_UNKNOWN = ("softcap", "s_aux", "position_bias")  # keywords that this kernel does not implement


def register() -> None:
    """Registers the kernel with transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(KERNEL, packed_attention)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        module: The attention layer.
        query: The queries, (1, H, N, D), of N packed tokens.
        key: The keys, (1, K, N, D); K divides H.
        value: The values, (1, K, N, D).
        attention_mask: Always None; the layout of the rows replaces it.
        scaling: The factor of the scores; None for 1 / sqrt(D).
        dropout: The dropout of the attention weights.
        sliding_window: The number of positions that a query attends to, itself included; None for
            all.
        **kwargs: The :class:`PackedRows` as ``packed_rows``, and other keywords of the model.

    Returns:
        The result, (1, N, H, D), and None in the place of attention weights.
    """
    assert KEYWORD in kwargs, "the model is set to packed rows: call its SupervisedLoss"
    rows: PackedRows = kwargs[KEYWORD]
    assert attention_mask is None, "packed rows have no mask"
    assert all(kwargs.get(name) is None for name in _UNKNOWN), "see packing_obstacle"
    groups = query.shape[1] // key.shape[1]
    runs = list(rows.runs())
    parents = {segment.parent for segment in rows.segments}
    # The keys and values of a segment and of all segments before it in its row.
    seen_by: dict[int, tuple[Tensor, Tensor]] = {}
    outputs = []
    # The tensors are split, because the backward of a slice writes zeros for the whole tensor.
    sizes = [run.num_segments * run.segment.length for run in runs]
    parts = (torch.split(states, sizes, dim=2) for states in (query, key, value))
    for run, *states in zip(runs, *parts, strict=True):
        shape = run.num_segments, run.segment.length
        own, keys, values = (torch.unflatten(x, 2, shape) for x in states)
        if run.segment.parent >= 0:
            prefix_keys, prefix_values = seen_by[run.segment.parent]
            keys, values = _prepend(prefix_keys, keys), _prepend(prefix_values, values)
        for i in parents.intersection(range(run.first, run.first + run.num_segments)):
            seen_by[i] = keys[:, :, i - run.first], values[:, :, i - run.first]
        start, length = run.segment.start, run.segment.length
        mask = _mask(start, length, sliding_window, groups, query.device)
        outputs.append(_attend(own, keys, values, mask, groups, scaling, dropout))
    return torch.cat(outputs)[None], None


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    groups: int,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Queries (1, H, R, S, D) with keys and values (1, K, R, P + S, D), to (R * S, H, D)."""
    output = F.scaled_dot_product_attention(
        _fold(query, groups),
        keys[0].transpose(0, 1),
        values[0].transpose(0, 1),
        attn_mask=mask,
        scale=scaling,
        dropout_p=dropout,
    )
    return _unfold(output, groups)


def _prepend(prefix: Tensor, own: Tensor) -> Tensor:
    """A common prefix (1, K, P, D) before each of R segments (1, K, R, S, D)."""
    return torch.cat([prefix.unsqueeze(2).expand(-1, -1, own.shape[2], -1, -1), own], dim=3)


def _fold(query: Tensor, groups: int) -> Tensor:
    """(1, H, R, S, D) -> (R, K, G * S, D): queries of one key head are joined along the sequence.

    So no key or value is repeated.
    """
    _, heads, count, length, width = query.shape
    folded = torch.unflatten(query[0], 0, (heads // groups, groups)).permute(2, 0, 1, 3, 4)
    return folded.reshape(count, heads // groups, groups * length, width)


def _unfold(output: Tensor, groups: int) -> Tensor:
    """(R, K, G * S, D) -> (R * S, H, D)."""
    count, heads, length, width = output.shape
    return (
        output.reshape(count, heads * groups, length // groups, width).transpose(1, 2).flatten(0, 1)
    )


@lru_cache(maxsize=256)  # all layers have the same masks
def _mask(
    prefix: int, length: int, window: int | None, groups: int, device: torch.device
) -> Tensor:
    """The mask of the folded queries of a segment, (G * S, P + S) bool."""
    query = torch.arange(prefix, prefix + length, device=device)[:, None]
    key = torch.arange(prefix + length, device=device)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    return seen.repeat(groups, 1)


def forget_masks() -> None:
    """Clears the cached masks, for example when fake tensors replace real ones."""
    _mask.cache_clear()
