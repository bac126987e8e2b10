"""Which keys each query of a pack sees, as parts that need no mask of their size.

Without a sliding window a query sees its own segment causally, and all tokens of the segments
before it in its row. These are two parts with disjoint keys, which is best for many tokens. Few
tokens are one part with a small mask. With a window, each query belongs to one part, whose keys are
a band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple

from smt_ray.data.packing import PackedRows, Segment

CHUNK = 256
"""The number of queries of a band that are computed at once."""
_MOST_PAIRS = 2**18  # of a segment that is computed together with its prefix, under one mask
_LONGEST_PREFIX = 2  # times the segment's length, as it is copied for each segment


class Span(NamedTuple):
    """The positions from ``start`` to ``stop - 1``."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of positions."""
        return self.stop - self.start


class Part(NamedTuple):
    """Adjacent sequences of the same length, and the keys that their queries see.

    Attributes:
        first: The position in the pack of the first sequence.
        num_sequences: The number of sequences.
        length: The number of tokens of each sequence.
        queries: The queries, within each sequence.
        before: The positions in the pack of keys that all sequences see before their own.
        own: The keys within each sequence; empty for none.
        causal: Whether query i of a sequence sees its keys 0 to i.
        band: For parts with a mask, the keys that the first query sees, counted from its first key;
            it may begin below 0. Each next query sees those one further.
        adds: Whether earlier parts have the same queries, with other keys.
        is_first: Whether no earlier part has the same queries or the same own keys.
    """

    first: int
    num_sequences: int
    length: int
    queries: Span
    before: tuple[Span, ...] = ()
    own: Span = Span(0, 0)
    causal: bool = False
    band: Span | None = None
    adds: bool = False
    is_first: bool = False


@lru_cache(maxsize=8)  # all layers have the same parts
def make_parts(rows: PackedRows, window: int | None) -> tuple[Part, ...]:
    """The parts of a pack.

    Args:
        rows: The layout of the pack.
        window: The number of positions that a query attends to, itself included; None for all.
    """
    spans = spans_of(rows)
    if window is not None and cuts_rows(rows, window):
        return tuple(_bands(rows, spans, window))
    return (*_own_segments(rows, spans), *_earlier_segments(rows, spans))


def cuts_rows(rows: PackedRows, window: int) -> bool:
    """Whether a query of a pack does not see all tokens before it in its row."""
    return window < max(segment.start + segment.length for segment in rows.segments)


def spans_of(rows: PackedRows) -> list[Span]:
    """The positions of each segment in the pack."""
    return [Span(*pair) for pair in pairwise(rows.offsets())]


def path(rows: PackedRows, index: int) -> list[int]:
    """The segments of a row up to a segment, in order; none for -1."""
    found: list[int] = []
    while index >= 0:
        found.append(index)
        index = rows.segments[index].parent
    return found[::-1]


def _own_segments(rows: PackedRows, spans: Sequence[Span]) -> Iterator[Part]:
    """Each segment's own keys, for short ones after those of its path."""
    for run in rows.runs():
        length, prefix = run.segment.length, run.segment.start
        whole, is_short = Span(0, length), _is_short(run.segment)
        yield Part(
            first=spans[run.first].start,
            num_sequences=run.num_segments,
            length=length,
            queries=whole,
            before=_before(rows, spans, run.segment.parent) if is_short else (),
            own=whole,
            causal=not is_short,
            band=Span(1 - length, prefix + 1) if is_short else None,
            is_first=True,
        )


def _is_short(segment: Segment) -> bool:
    """Whether a segment is computed together with the segments before it."""
    length, prefix = segment.length, segment.start
    is_small = length * (prefix + length) <= _MOST_PAIRS
    return segment.parent >= 0 and is_small and prefix <= _LONGEST_PREFIX * length


def _earlier_segments(rows: PackedRows, spans: Sequence[Span]) -> Iterator[Part]:
    """The keys before long segments, together for those with the same parent."""
    for parent, group in siblings(rows, but=_is_short):
        start, stop = spans[group[0]].start, spans[group[-1]].stop
        yield Part(
            first=start,
            num_sequences=1,
            length=stop - start,
            queries=Span(0, stop - start),
            before=_before(rows, spans, parent),
            adds=True,
        )


def siblings(
    rows: PackedRows, but: Callable[[Segment], bool] = lambda _: False
) -> Iterator[tuple[int, range]]:
    """Each parent and the adjacent segments that follow it directly in their rows.

    Args:
        rows: The layout of the pack.
        but: The segments that are left out.
    """
    numbered = enumerate(rows.segments)
    for (parent, left_out), group in groupby(numbered, lambda pair: (pair[1].parent, but(pair[1]))):
        members = [index for index, _ in group]
        if parent >= 0 and not left_out:
            yield parent, range(members[0], members[-1] + 1)


def _before(rows: PackedRows, spans: Sequence[Span], parent: int) -> tuple[Span, ...]:
    return tuple(spans[i] for i in path(rows, parent))


def _bands(rows: PackedRows, spans: Sequence[Span], window: int) -> Iterator[Part]:
    """Chunks of queries, each with the keys that one of its queries sees."""
    for run in rows.runs():
        segment = run.segment
        for start in range(0, segment.length, CHUNK):
            stop = min(start + CHUNK, segment.length)
            wanted = segment.start + start - window + 1
            first_seen = max(wanted, 0)
            yield Part(
                first=spans[run.first].start,
                num_sequences=run.num_segments,
                length=segment.length,
                queries=Span(start, stop),
                before=_from(_before(rows, spans, segment.parent), segment, first_seen),
                own=Span(max(first_seen - segment.start, 0), stop),
                band=Span(wanted - first_seen, wanted - first_seen + window),
            )


def _from(spans: tuple[Span, ...], segment: Segment, place: int) -> tuple[Span, ...]:
    """The end of a path of ``segment.start`` tokens, from a place in its row on."""
    kept, seen = [], 0
    for span in spans:
        cut = min(max(place - seen, 0), span.length)
        if cut < span.length:
            kept.append(Span(span.start + cut, span.stop))
        seen += span.length
    assert seen == segment.start
    return tuple(kept)
