"""Packs: rows one after the other without padding, the token prefix that they share only once.

A pack of k rows with a common prefix of P tokens has P + the sum of (length - P) positions. Whether
that changes a row's loss is the attention's matter: it must show every row the prefix and itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of a pack lie: the prefix first, then each row's own tokens.

    Attributes:
        prefix: P, tokens that all rows begin with; 0 for none.
        suffixes: Tokens of each row's own part, ascending, empty parts left out.
    """

    prefix: int
    suffixes: tuple[int, ...]

    def runs(self) -> list[tuple[int, int]]:
        """How many rows there are of each length, and that length."""
        return [(len(list(run)), length) for length, run in groupby(self.suffixes)]

    def spans(self) -> Iterator[tuple[int, int]]:
        """First position and end of each row's own part."""
        start = self.prefix
        for length in self.suffixes:
            yield start, start + length
            start += length


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all rows begin with."""
    # Of sorted sequences the first and the last differ earliest.
    first, last = min(rows), max(rows)
    shorter = min(len(first), len(last))
    return next((i for i in range(shorter) if first[i] != last[i]), shorter)


def plan_packs(
    rows: Sequence[Sequence[int]], *, max_tokens: int, num_ranks: int, share_prefix: bool
) -> list[list[list[int]]]:
    """Divides a step's rows into packs, balanced over ranks and equal in number on each.

    Rows in the order of their tokens have neighbours that share the most; a pack is a run of them.
    There are as few packs as ``max_tokens`` allows, rounded up to a multiple of the ranks, and the
    largest of them is as small as can be.

    Args:
        rows: The tokens that each row feeds to the model.
        max_tokens: Tokens of a pack; a longer row stands alone.
        num_ranks: Ranks; all get the same number of packs, some of them empty.
        share_prefix: Whether a pack's common prefix is computed once.

    Returns:
        ``plan[rank][pack]`` = positions into ``rows``.
    """
    order = sorted(range(len(rows)), key=lambda i: (tuple(rows[i]), i))
    sizes = _Sizes([rows[i] for i in order], share_prefix)
    wanted = -(-len(sizes.cut(max_tokens)) // num_ranks) * num_ranks
    runs = sizes.cut(_smallest(sizes, wanted, max_tokens))
    packs = sorted(runs, key=lambda run: (-sizes.of(run), run.start))
    packs += [range(0)] * (-len(packs) % num_ranks)
    return deal([[order[i] for i in run] for run in packs], num_ranks)


def deal(largest_first: Sequence[T], num_ranks: int) -> list[list[T]]:
    """Deals out to ranks back and forth, so that all get as much."""
    dealt: list[list[T]] = [[] for _ in range(num_ranks)]
    for position, item in enumerate(largest_first):
        lap, seat = divmod(position, num_ranks)
        dealt[seat if lap % 2 == 0 else num_ranks - 1 - seat].append(item)
    return dealt


class _Sizes:
    """Sizes of runs of sorted rows, when packed."""

    def __init__(self, rows: list[Sequence[int]], share_prefix: bool) -> None:
        self.lengths = [len(row) for row in rows]
        self.longest = max(self.lengths)
        # shared[i]: what rows i - 1 and i have in common
        self.shared = [0] * len(rows)
        if share_prefix:
            self.shared[1:] = [common_prefix(rows[i - 1 : i + 1]) for i in range(1, len(rows))]

    def of(self, run: range) -> int:
        """Tokens of the pack that a run makes."""
        prefix = min((self.shared[i] for i in run[1:]), default=0)
        return sum(self.lengths[i] for i in run) - prefix * max(0, len(run) - 1)

    def cut(self, limit: int) -> list[range]:
        """The fewest runs of at most ``limit`` tokens: each takes what it can (sizes only grow)."""
        runs: list[range] = []
        start, total, prefix = 0, 0, self.longest
        for i, length in enumerate(self.lengths):
            shared = min(prefix, self.shared[i])
            if i > start and total + length - shared * (i - start) > limit:
                runs.append(range(start, i))
                start, total, prefix = i, 0, self.longest
            elif i > start:
                prefix = shared
            total += length
        return [*runs, range(start, len(self.lengths))]


def _smallest(sizes: _Sizes, num_packs: int, limit: int) -> int:
    """The smallest limit that needs no more than so many packs."""
    low, high = min(sizes.longest, limit), limit
    while low < high:
        middle = (low + high) // 2
        if len(sizes.cut(middle)) <= num_packs:
            high = middle
        else:
            low = middle + 1
    return low


def pack_rows(rows: Sequence[torch.Tensor], prefix: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence of the rows' tokens, and each token's position in its own row.

    Args:
        rows: Token ids of each row, (S,) int64.
        prefix: P, the tokens that they share.

    Returns:
        Token ids (N,) and position ids (N,), int64.
    """
    ids = torch.cat([rows[0][:prefix], *(row[prefix:] for row in rows)])
    places = [torch.arange(prefix), *(torch.arange(prefix, len(row)) for row in rows)]
    return ids, torch.cat(places)


def merge_targets(
    positions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Equal (position, target) pairs as one with the sum of their weights.

    Rows that share a prefix share its targets too where prompts are trained on.

    Args:
        positions: (Q,) int64.
        targets: (Q,) int64, below 2^31.
        weights: (Q,) float32.
    """
    pairs, place = torch.unique((positions << 31) | targets, return_inverse=True)
    merged = torch.zeros(len(pairs), dtype=weights.dtype).index_add_(0, place, weights)
    return pairs >> 31, pairs & (2**31 - 1), merged
