"""Packs: rows one after the other without padding, tokens that rows begin with computed once.

Rows of a pack that begin alike share what they begin with, and among them some may go on alike: a
pack is a tree of segments, and a row is the segments on the way to where it ends. Whether that
changes a row's loss is the attention's matter: it must show every row its own segments and no
other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


class Segment(NamedTuple):
    """Tokens that follow each other in every row that has them.

    Attributes:
        parent: Index of the segment that comes before it in its rows; -1 for none.
        start: Place of its first token in its rows, which is how many tokens come before.
        length: Its tokens, at least one.
    """

    parent: int
    start: int
    length: int


class Run(NamedTuple):
    """Segments side by side that differ in their tokens alone.

    Attributes:
        first: Index of the first of them.
        count: How many there are.
        segment: What each of them is.
    """

    first: int
    count: int
    segment: Segment


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of a pack lie: its segments one after the other, parents before children."""

    segments: tuple[Segment, ...]

    @classmethod
    def whole(cls, lengths: Sequence[int]) -> PackedRows:
        """Rows of which none begins as another does, by their tokens."""
        return cls(tuple(Segment(-1, 0, length) for length in lengths))

    def runs(self) -> Iterator[Run]:
        """The segments, those that can be computed together as one."""
        first = 0
        for segment, equals in groupby(self.segments):
            count = len(list(equals))
            yield Run(first, count, segment)
            first += count

    def offsets(self) -> list[int]:
        """The pack's position where each segment begins, and the end."""
        return list(accumulate((segment.length for segment in self.segments), initial=0))

    def position_ids(self) -> torch.Tensor:
        """Each token's place in its own rows, (N,) int64."""
        return torch.cat([torch.arange(s.start, s.start + s.length) for s in self.segments])


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all rows begin with."""
    # Of sorted sequences the first and the last differ earliest.
    first, last = min(rows), max(rows)
    shorter = min(len(first), len(last))
    return next((i for i in range(shorter) if first[i] != last[i]), shorter)


def _shared(rows: Sequence[Sequence[int]]) -> list[int]:
    """What each row begins with as the one before it does, in tokens; of sorted rows.

    So a row adds its length less that to a pack: no row before has more in common with it.
    """
    return [0, *(common_prefix(rows[i - 1 : i + 1]) for i in range(1, len(rows)))]


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
        self.shared = _shared(rows) if share_prefix else [0] * len(rows)

    def of(self, run: range) -> int:
        """Tokens of the pack that a run makes."""
        return sum(self.lengths[i] for i in run) - sum(self.shared[i] for i in run[1:])

    def cut(self, limit: int) -> list[range]:
        """The fewest runs of at most ``limit`` tokens: each takes what it can (sizes only grow)."""
        runs: list[range] = []
        start = total = 0
        for i, length in enumerate(self.lengths):
            own = length - self.shared[i]
            if i > start and total + own > limit:
                runs.append(range(start, i))
                start, total = i, length
            else:
                total += own
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


def pack_rows(
    rows: Sequence[Sequence[int]], *, share_prefix: bool
) -> tuple[PackedRows, list[torch.Tensor]]:
    """Lays rows out as a tree of segments.

    Args:
        rows: The tokens that each row feeds to the model.
        share_prefix: Whether what rows begin with alike is one segment.

    Returns:
        The layout, and for each row the positions (S,) int64 of its tokens in the pack.
    """
    if share_prefix:
        order = sorted(range(len(rows)), key=lambda i: rows[i])
        ways, segments = _grow([rows[i] for i in order])
    else:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        ways = [[place] for place in range(len(rows))]
        segments = PackedRows.whole([len(rows[i]) for i in order]).segments
    layout = PackedRows(tuple(segments))
    starts = layout.offsets()
    positions = [
        torch.cat([torch.arange(starts[index], starts[index + 1]) for index in way])
        for _, way in sorted(zip(order, ways, strict=True))
    ]
    return layout, positions


def _grow(rows: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[Segment]]:
    """The way of each of some sorted rows through segments, and the segments."""
    shared = _shared(rows)
    ways: list[list[int]] = [[] for _ in rows]
    segments: list[Segment] = []
    # Rows that are alike so far, breadth first: so children of one segment lie together.
    alike = deque([(range(len(rows)), -1, 0)])
    while alike:
        run, parent, start = alike.popleft()
        end = _end(run, rows, shared)
        if end > start:
            segments.append(Segment(parent, start, end - start))
            parent = len(segments) - 1
            for i in run:
                ways[i].append(parent)
        branches = _branches(run, rows, shared, end)
        branches.sort(key=lambda branch: _end(branch, rows, shared))  # for PackedRows.runs
        alike.extend((branch, parent, end) for branch in branches)
    return ways, segments


def _end(run: range, rows: Sequence[Sequence[int]], shared: Sequence[int]) -> int:
    """Number of tokens that all rows of a run begin with."""
    return min((shared[i] for i in run[1:]), default=len(rows[run.start]))


def _branches(
    run: range, rows: Sequence[Sequence[int]], shared: Sequence[int], end: int
) -> list[range]:
    """Runs of the rows that go on after ``end``, cut where rows have no more in common."""
    longer = [i for i in run if len(rows[i]) > end]
    starts = [i for i in longer if i == longer[0] or shared[i] == end]
    return [range(*pair) for pair in pairwise([*starts, run.stop])] if starts else []


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
