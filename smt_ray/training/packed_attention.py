"""Attention over packed rows: each sees its own tokens alone, and nothing else is paid.

transformers hands each attention layer's queries, keys and values to a function registered by name.
This one takes the rows' places as a further keyword of the model's forward, and computes each
segment's queries against the keys of the segments before it in its rows and its own: exactly the
pairs that the mask allows, but for the causal half. Like segments go together. The linears around
it never know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.data.packing import PackedRows

KERNEL = "smt_ray_packed"
KEYWORD = "packed_rows"  # of the model's forward, handed on to its attention layers

_UNKNOWN = ("softcap", "s_aux", "position_bias")  # what other kernels do to scores, and this not


def register() -> None:
    """Makes the kernel known to transformers."""
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
    """A drop-in for transformers' attention functions.

    Args:
        module: The attention layer.
        query: (1, H, N, D); N packed tokens.
        key: (1, K, N, D), K dividing H.
        value: (1, K, N, D).
        attention_mask: None; the rows say what may be seen.
        scaling: Of the scores; None for 1 / sqrt(D).
        dropout: Of the attention weights.
        sliding_window: Positions of a row that a query sees, itself included; None for all.
        **kwargs: ``packed_rows``, a :class:`PackedRows`, and whatever else the model hands on.

    Returns:
        (1, N, H, D), and no weights.
    """
    assert KEYWORD in kwargs, "the model was left at packed rows: call SupervisedLoss, not it"
    rows: PackedRows = kwargs[KEYWORD]
    assert attention_mask is None, "packed rows take no mask"
    assert all(kwargs.get(name) is None for name in _UNKNOWN), "see packing_obstacle"
    groups = query.shape[1] // key.shape[1]
    runs = list(rows.runs())
    parents = {segment.parent for segment in rows.segments}
    seen_by: dict[int, list[Tensor]] = {}  # keys and values of a segment and all before it
    outputs = []
    # Split, not sliced: the backward of a slice writes zeros as long as the whole.
    sizes = [run.count * run.segment.length for run in runs]
    for run, *states in zip(runs, *(x.split(sizes, 2) for x in (query, key, value)), strict=True):
        own, *seen = (x.unflatten(2, (run.count, run.segment.length)) for x in states)
        if run.segment.parent >= 0:
            before = seen_by[run.segment.parent]
            seen = [_with(*pair) for pair in zip(before, seen, strict=True)]
        for i in parents.intersection(range(run.first, run.first + run.count)):
            seen_by[i] = [x[:, :, i - run.first] for x in seen]
        output = F.scaled_dot_product_attention(
            _fold(own, groups),
            *(x[0].transpose(0, 1) for x in seen),
            attn_mask=_mask(
                run.segment.start, run.segment.length, sliding_window, groups, query.device
            ),
            scale=scaling,
            dropout_p=dropout,
        )
        outputs.append(_unfold(output, groups))
    return torch.cat(outputs)[None], None


def _with(prefix: Tensor, own: Tensor) -> Tensor:
    """What R segments have before them (1, K, P, D), and before each its own (1, K, R, S, D)."""
    return torch.cat([prefix.unsqueeze(2).expand(-1, -1, own.shape[2], -1, -1), own], dim=3)


def _fold(query: Tensor, groups: int) -> Tensor:
    """(1, H, R, S, D) -> (R, K, G * S, D): queries that share a key head lie along the sequence.

    So no key or value is repeated.
    """
    _, heads, count, length, width = query.shape
    folded = query[0].unflatten(0, (heads // groups, groups)).permute(2, 0, 1, 3, 4)
    return folded.reshape(count, heads // groups, groups * length, width)


def _unfold(output: Tensor, groups: int) -> Tensor:
    """(R, K, G * S, D) -> (R * S, H, D)."""
    count, heads, length, width = output.shape
    return (
        output.reshape(count, heads * groups, length // groups, width).transpose(1, 2).flatten(0, 1)
    )


@lru_cache(maxsize=256)  # the same in every layer
def _mask(
    prefix: int, length: int, window: int | None, groups: int, device: torch.device
) -> Tensor:
    """(G * S, P + S) bool: what each folded query of a segment sees."""
    query = torch.arange(prefix, prefix + length, device=device)[:, None]
    key = torch.arange(prefix + length, device=device)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    return seen.repeat(groups, 1)


def forget_masks() -> None:
    """Drops what is kept between calls, such as when tensors change their nature."""
    _mask.cache_clear()
