"""The parts of a pack by CUDA's flash attention over sequences of any lengths: one call a part.

A pack is one part of all its segments, and one part of all segments that follow others; with a
sliding window, it is one part of all segments with the keys that their windows reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from smt_ray.data.packing import PackedRows
from smt_ray.training.attention.cores import Attended
from smt_ray.training.attention.parts import Span, cuts_rows, path, siblings, spans_of

_forward = torch.ops.aten._flash_attention_forward
_backward = torch.ops.aten._flash_attention_backward

_LARGEST_HEAD = 256
_CAPABILITY = (8, 0)  # Ampere


def has_varlen(query: Tensor, value: Tensor) -> bool:
    """Whether PyTorch's flash attention takes these queries and values."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] == value.shape[-1] <= _LARGEST_HEAD
        and query.shape[-1] % 8 == 0
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(query.device) >= _CAPABILITY
    )


@dataclass(frozen=True, eq=False)
class Varlen:
    """Sequences of queries that are adjacent in the pack, and the keys of each.

    Attributes:
        queries: The positions of all queries.
        keys: The positions of the keys of each sequence, one after the other, (M,) int64; None if
            they are the queries' positions.
        query_ends: 0 and the end of each sequence within the queries, (S + 1,) int32.
        key_ends: 0 and the end of each sequence within the keys, (S + 1,) int32.
        longest_query: The largest number of queries of a sequence.
        longest_key: The largest number of keys of a sequence.
        causal: Whether the last query of a sequence sees all its keys, the one before it all but
            the last, and so on.
        window: The number of positions that a query attends to; None for all.
        adds: Whether earlier parts have the same queries, with other keys.
        is_first: Whether it has all queries, each key once, and comes before all other parts.
    """

    queries: Span
    keys: Tensor | None
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int
    causal: bool = False
    window: int | None = None
    adds: bool = False
    is_first: bool = False

    @property
    def shares_keys(self) -> bool:
        """Whether several queries' sequences or several parts may have the same keys."""
        return not self.is_first

    def take(self, tokens: Tensor) -> Tensor:
        """A view of the part's queries, (n, ...), of a tensor of all tokens, (N, ...)."""
        return tokens[slice(*self.queries)]

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The results (n, H, D) and log-sum-exps (n, H) of the part's queries."""
        output, lse, *_ = _forward(
            self.take(query),
            self._gather(key),
            self._gather(value),
            *self._lengths(),
            0.0,
            self.causal,
            False,
            scale=scale,
            **self._window(),
        )
        return output, lse.transpose(0, 1)

    def backward(
        self, grad: Tensor, attended: Attended, scale: float, sums: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Adds the part's gradients of the queries, keys and values to sums of their shapes."""
        query, key, value, output, lse = attended
        nothing = torch.empty(0, dtype=torch.uint64, device=query.device)  # no random state
        grads = _backward(
            self.take(grad).contiguous(),
            self.take(query),
            self._gather(key),
            self._gather(value),
            self.take(output),
            self.take(lse).transpose(0, 1).contiguous(),
            *self._lengths(),
            0.0,
            self.causal,
            nothing,
            nothing,
            scale=scale,
            **self._window(),
        )
        if self.is_first:
            for total, part in zip(sums, grads, strict=True):
                total.copy_(part)
            return
        assert self.keys is not None
        self.take(sums[0]).add_(grads[0])
        for total, part in zip(sums[1:], grads[1:], strict=True):
            total.index_add_(0, self.keys, part.to(total.dtype))

    def _gather(self, tokens: Tensor) -> Tensor:
        return self.take(tokens) if self.keys is None else tokens.index_select(0, self.keys)

    def _lengths(self) -> tuple[Tensor, Tensor, int, int]:
        return self.query_ends, self.key_ends, self.longest_query, self.longest_key

    def _window(self) -> dict[str, Any]:
        if self.window is None:
            return {}
        return {"window_size_left": self.window - 1, "window_size_right": 0}


@lru_cache(maxsize=4)  # all layers have the same parts
def make_varlen(rows: PackedRows, window: int | None, device: torch.device) -> list[Varlen]:
    """The parts of a pack.

    Args:
        rows: The layout of the pack.
        window: The number of positions that a query attends to, itself included; None for all.
        device: The device of the positions and lengths.
    """
    if window is not None and cuts_rows(rows, window):
        return [_in_windows(rows, window, device)]
    spans = spans_of(rows)
    own = _part([[span] for span in spans], None, device, causal=True, is_first=True)
    groups = list(siblings(rows))
    if not groups:
        return [own]
    queries = [Span(spans[group[0]].start, spans[group[-1]].stop) for _, group in groups]
    keys = [[spans[i] for i in path(rows, parent)] for parent, _ in groups]
    return [own, _part(keys, queries, device, adds=True)]


def _in_windows(rows: PackedRows, window: int, device: torch.device) -> Varlen:
    """Each segment with its own keys and those before it that its first query sees."""
    spans, keys = spans_of(rows), []
    for index, segment in enumerate(rows.segments):
        earlier = [spans[i] for i in path(rows, segment.parent)]
        keys.append([*_last(earlier, window - 1), spans[index]])
    return _part(keys, spans, device, causal=True, window=window)


def _last(spans: Sequence[Span], count: int) -> list[Span]:
    """The last ``count`` positions of spans, or all."""
    kept: list[Span] = []
    for span in reversed(spans):
        if count > 0:
            kept.append(Span(max(span.start, span.stop - count), span.stop))
            count -= span.length
    return kept[::-1]


def _part(
    keys: Sequence[Sequence[Span]],
    queries: Sequence[Span] | None,
    device: torch.device,
    **options: Any,
) -> Varlen:
    """A part from the keys and the queries of each sequence; None if those are the keys."""
    key_lengths = [sum(span.length for span in spans) for spans in keys]
    if queries is None:
        queries, positions = [spans[0] for spans in keys], None
    else:
        pieces = [torch.arange(*span) for spans in keys for span in spans]
        positions = torch.cat(pieces).to(device)
    query_lengths = [span.length for span in queries]
    whole = Span(queries[0].start, queries[-1].stop)
    assert whole.length == sum(query_lengths), "the sequences are adjacent"
    return Varlen(
        queries=whole,
        keys=positions,
        query_ends=_ends(query_lengths, device),
        key_ends=_ends(key_lengths, device),
        longest_query=max(query_lengths),
        longest_key=max(key_lengths),
        **options,
    )


def _ends(lengths: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device=device)
