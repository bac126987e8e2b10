"""Packs: rows without padding, whose common prefixes are computed once.

Rows with the same beginning share it, and groups of these rows may share more. So a pack is a tree
of segments, and a row is the path of segments from the root to its end. The loss of a row stays the
same if attention shows each row its own segments and no others.
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
    """Consecutive tokens that the same rows have in common.

    Attributes:
        parent: The index of the segment before it in its rows; -1 for none.
        start: The place of its first token in its rows.
        length: The number of its tokens, at least one.
    """

    parent: int
    start: int
    length: int


class Run(NamedTuple):
    """Adjacent segments with the same parent, start and length.

    Attributes:
        first: The index of the first of them.
        num_segments: The number of segments.
        segment: The parent, start and length of each.
    """

    first: int
    num_segments: int
    segment: Segment


@dataclass(frozen=True)
class PackedRows:
    """The layout of a pack: its segments in order, parents before children."""

    segments: tuple[Segment, ...]

    @classmethod
    def whole(cls, lengths: Sequence[int]) -> PackedRows:
        """The layout of rows without common prefixes, by their numbers of tokens."""
        return cls(tuple(Segment(-1, 0, length) for length in lengths))

    def runs(self) -> Iterator[Run]:
        """Groups the segments that can be computed together."""
        first = 0
        for segment, equals in groupby(self.segments):
            num_segments = len(list(equals))
            yield Run(first, num_segments, segment)
            first += num_segments

    def offsets(self) -> list[int]:
        """The position in the pack where each segment begins, and the end of the pack."""
        return list(accumulate((segment.length for segment in self.segments), initial=0))

    def position_ids(self) -> torch.Tensor:
        """The place of each token in its rows, (N,) int64."""
        return torch.cat([torch.arange(s.start, s.start + s.length) for s in self.segments])


def common_prefix(rows: Sequence[list[int]]) -> int:
    """The number of tokens that all rows begin with."""
    # The smallest and the largest row differ no later than any two rows.
    first, last = min(rows), max(rows)
    shorter = min(len(first), len(last))
    return next((i for i in range(shorter) if first[i] != last[i]), shorter)


def _shared(rows: Sequence[list[int]]) -> list[int]:
    """The length of the common prefix of each sorted row and the row before it.

    No earlier row has a longer prefix in common with it. So in a pack, a row adds as many tokens as
    it has after this prefix.
    """
    return [0, *(common_prefix(rows[i - 1 : i + 1]) for i in range(1, len(rows)))]


def plan_packs(
    rows: Sequence[list[int]], *, max_tokens: int, num_ranks: int, share_prefix: bool
) -> list[list[list[int]]]:
    """Divides the rows of a step into packs, with the same number of packs on each rank.

    Rows that share the most tokens are adjacent when rows are sorted; a pack is a range of sorted
    rows. There are as few packs as ``max_tokens`` allows, rounded up to a multiple of the ranks.
    The largest pack is as small as possible.

    Args:
        rows: The tokens of each row that are input of the model.
        max_tokens: The largest number of tokens of a pack; a longer row is alone in its pack.
        num_ranks: The number of ranks. Some packs may be empty.
        share_prefix: Whether common prefixes are computed once.

    Returns:
        ``plan[rank][pack]`` = positions into ``rows``.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i], i))
    sizes = _Sizes([rows[i] for i in order], share_prefix)
    wanted = -(-len(sizes.cut(max_tokens)) // num_ranks) * num_ranks
    runs = sizes.cut(_smallest(sizes, wanted, max_tokens))
    packs = sorted(runs, key=lambda run: (-sizes.of(run), run.start))
    packs += [range(0)] * (-len(packs) % num_ranks)
    return deal([[order[i] for i in run] for run in packs], num_ranks)


def deal(largest_first: Sequence[T], num_ranks: int) -> list[list[T]]:
    """Distributes items over ranks back and forth, which balances their sizes."""
    dealt: list[list[T]] = [[] for _ in range(num_ranks)]
    for position, item in enumerate(largest_first):
        lap, seat = divmod(position, num_ranks)
        dealt[seat if lap % 2 == 0 else num_ranks - 1 - seat].append(item)
    return dealt


class _Sizes:
    """The sizes of packs of sorted rows."""

    def __init__(self, rows: list[list[int]], share_prefix: bool) -> None:
        self.lengths = [len(row) for row in rows]
        self.longest = max(self.lengths)
        self.shared = _shared(rows) if share_prefix else [0] * len(rows)

    def of(self, run: range) -> int:
        """The tokens of a pack."""
        return sum(self.lengths[i] for i in run) - sum(self.shared[i] for i in run[1:])

    def cut(self, limit: int) -> list[range]:
        """The fewest packs of at most ``limit`` tokens: each takes rows until it is full."""
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
    """The smallest limit for which ``num_packs`` packs are enough."""
    low, high = min(sizes.longest, limit), limit
    while low < high:
        middle = (low + high) // 2
        if len(sizes.cut(middle)) <= num_packs:
            high = middle
        else:
            low = middle + 1
    return low


def pack_rows(
    rows: Sequence[list[int]], *, share_prefix: bool
) -> tuple[PackedRows, list[torch.Tensor]]:
    """The layout of a pack.

    Args:
        rows: The tokens of each row that are input of the model.
        share_prefix: Whether common prefixes become common segments.

    Returns:
        The layout, and for each row the positions (S,) int64 of its tokens in the pack.
    """
    if share_prefix:
        order = sorted(range(len(rows)), key=lambda i: rows[i])
        paths, layout = _make_tree([rows[i] for i in order])
    else:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        paths = [[place] for place in range(len(rows))]
        layout = PackedRows.whole([len(rows[i]) for i in order])
    starts = layout.offsets()
    positions = [
        torch.cat([torch.arange(starts[index], starts[index + 1]) for index in path])
        for _, path in sorted(zip(order, paths, strict=True))
    ]
    return layout, positions


def _make_tree(rows: Sequence[list[int]]) -> tuple[list[list[int]], PackedRows]:
    """The path of each sorted row through the segments, and the segments."""
    shared = _shared(rows)
    paths: list[list[int]] = [[] for _ in rows]
    segments: list[Segment] = []
    # Groups of rows with a common prefix, breadth first, so that siblings are adjacent.
    groups = deque([(range(len(rows)), -1, 0)])
    while groups:
        group, parent, start = groups.popleft()
        end = _end(group, rows, shared)
        if end > start:
            segments.append(Segment(parent, start, end - start))
            parent = len(segments) - 1
            for i in group:
                paths[i].append(parent)
        branches = _branches(group, rows, shared, end)
        branches.sort(key=lambda branch: _end(branch, rows, shared))  # for PackedRows.runs
        groups.extend((branch, parent, end) for branch in branches)
    return paths, PackedRows(tuple(segments))


def _end(run: range, rows: Sequence[list[int]], shared: Sequence[int]) -> int:
    """The number of tokens that all rows of a range begin with."""
    return min((shared[i] for i in run[1:]), default=len(rows[run.start]))


def _branches(
    run: range, rows: Sequence[list[int]], shared: Sequence[int], end: int
) -> list[range]:
    """Ranges of rows that are longer than ``end`` and have more in common."""
    longer = [i for i in run if len(rows[i]) > end]
    starts = [i for i in longer if i == longer[0] or shared[i] == end]
    return [range(*pair) for pair in pairwise([*starts, run.stop])] if starts else []


def merge_targets(
    positions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merges equal pairs of position and target, and adds their weights.

    If prompts are trained on, rows that share a prefix also share its targets.

    Args:
        positions: The positions in the pack, (Q,) int64.
        targets: The token ids, (Q,) int64, below 2^31.
        weights: The weights in the loss, (Q,) float32.
    """
    pairs, place = torch.unique((positions << 31) | targets, return_inverse=True)
    merged = torch.zeros(len(pairs), dtype=weights.dtype).index_add_(0, place, weights)
    return pairs >> 31, pairs & (2**31 - 1), merged
