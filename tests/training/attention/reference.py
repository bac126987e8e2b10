"""Attention over packs by its definition, and the flash kernels of CUDA by theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smt_ray.data.packing import PackedRows, pack_rows
from smt_ray.training.attention.parts import path


def make_rows(*, seed: int = 0, longest: int = 40) -> PackedRows:
    """A pack of rows with common prefixes of several depths."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[int]] = []
    for length in (1, 3, longest // 4, longest // 2, longest, longest, longest):
        row = torch.randint(3, (length,), generator=generator).tolist()
        if rows:
            shared = int(torch.randint(len(rows[-1]) + 1, (1,), generator=generator))
            row[:shared] = rows[-1][:shared]
        rows.append(row)
    layout, _ = pack_rows(rows, share_prefix=True)
    return layout


def allowed(rows: PackedRows, window: int | None) -> Tensor:
    """Which keys each query sees, (N, N) bool."""
    offsets, places = rows.offsets(), rows.position_ids()
    seen = torch.zeros(offsets[-1], offsets[-1], dtype=torch.bool)
    for index in range(len(rows.segments)):
        queries = slice(offsets[index], offsets[index + 1])
        for earlier in path(rows, index):
            keys = slice(offsets[earlier], offsets[earlier + 1])
            distance = places[queries, None] - places[keys]
            seen[queries, keys] = (distance >= 0) & (distance < (window or len(places)))
    return seen


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """(N, H, D), (N, K, D), (N, K, E) -> (N, H, E), by whole scores."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, keys) * scale
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khe->qhe", weights, values)


def flash_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    *arguments: Any,
    **options: Any,
) -> tuple[Tensor, ...]:
    """What ``aten::_flash_attention_forward`` computes, with the same arguments."""
    seen = _seen(query_ends, key_ends, arguments[3], options.get("window_size_left"))
    scores = _scores(query, key, seen, options["scale"])
    groups = query.shape[1] // key.shape[1]
    values = value.repeat_interleave(groups, 1)
    output = torch.einsum("hqk,khe->qhe", scores.softmax(-1), values)
    return output, scores.logsumexp(-1), *(torch.empty(0),) * 3


def flash_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    *arguments: Any,
    **options: Any,
) -> tuple[Tensor, ...]:
    """What ``aten::_flash_attention_backward`` computes, with the same arguments."""
    seen = _seen(query_ends, key_ends, arguments[3], options.get("window_size_left"))
    groups = query.shape[1] // key.shape[1]
    keys, values = (x.repeat_interleave(groups, 1) for x in (key, value))
    weights = (_scores(query, key, seen, options["scale"]) - lse[..., None]).exp()
    products = (grad * output).sum(-1).T[..., None]
    inner = weights * (torch.einsum("qhe,khe->hqk", grad, values) - products) * options["scale"]
    return (
        torch.einsum("hqk,khd->qhd", inner, keys),
        torch.einsum("hqk,qhd->khd", inner, query).unflatten(1, (-1, groups)).sum(2),
        torch.einsum("hqk,qhe->khe", weights, grad).unflatten(1, (-1, groups)).sum(2),
    )


def _scores(query: Tensor, key: Tensor, seen: Tensor, scale: float) -> Tensor:
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    return (torch.einsum("qhd,khd->hqk", query, keys) * scale).masked_fill(~seen, -torch.inf)


def _seen(query_ends: Tensor, key_ends: Tensor, causal: bool, left: int | None) -> Tensor:
    """The pairs of the same sequence; causality and windows are aligned at its last query."""
    seen = torch.zeros(int(query_ends[-1]), int(key_ends[-1]), dtype=torch.bool)
    for i in range(len(query_ends) - 1):
        queries = torch.arange(int(query_ends[i]), int(query_ends[i + 1]))
        keys = torch.arange(int(key_ends[i]), int(key_ends[i + 1]))
        distance = (queries[-1] - queries)[:, None] - (keys[-1] - keys)
        within = -distance if causal else torch.zeros_like(distance)
        pairs = within >= 0
        if left is not None:
            pairs &= within <= left
        seen[queries[:, None], keys] = pairs
    return seen
