"""Claims about packs: their rows, their sizes, and their ranks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch

from smt_ray.data.batches import step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.data.packing import PackedRows, Segment, merge_targets, pack_rows, plan_packs

Plan = list[list[list[int]]]


def random_rows(seed: int) -> list[list[int]]:
    """Up to a dozen rows, many with a common prefix."""
    draw = random.Random(seed)
    return [
        [1, 2, 3][: draw.randint(0, 3)] + [draw.randint(0, 2) for _ in range(draw.randint(1, 8))]
        for _ in range(draw.randint(1, 12))
    ]


def size(rows: list[list[int]], pack: list[int], share: bool) -> int:
    """The tokens of a pack: one for each distinct prefix of its rows."""
    beginnings = [tuple(rows[i][:end]) for i in pack for end in range(1, len(rows[i]) + 1)]
    return len(set(beginnings) if share else beginnings)


@pytest.mark.parametrize("share", [True, False], ids=["prefix", "whole"])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [1, 10, 30, 1000])
def test_every_row_is_in_one_pack_and_ranks_have_equally_many_packs(
    max_tokens: int, num_ranks: int, share: bool
) -> None:
    for seed in range(40):
        rows = random_rows(seed)
        plan = plan_packs(rows, max_tokens=max_tokens, num_ranks=num_ranks, share_prefix=share)
        packs = [pack for packs in plan for pack in packs if pack]
        assert sorted(itertools.chain(*packs)) == list(range(len(rows)))
        assert len({len(packs) for packs in plan}) == 1
        assert len(plan) == num_ranks
        assert all(len(pack) == 1 or size(rows, pack, share) <= max_tokens for pack in packs)


def test_the_plan_has_the_fewest_packs_and_the_smallest_largest_pack() -> None:
    """The reference tries all ways to cut the sorted rows."""
    for seed, max_tokens in itertools.product(range(60), (9, 15, 25)):
        rows = random_rows(seed)[:8]
        order = sorted(range(len(rows)), key=lambda i: (rows[i], i))
        ways = []
        for cuts in itertools.product([False, True], repeat=len(rows) - 1):
            packs: list[list[int]] = [[order[0]]]
            for i, cut in zip(order[1:], cuts, strict=True):
                if cut:
                    packs.append([i])
                else:
                    packs[-1].append(i)
            if all(len(pack) == 1 or size(rows, pack, True) <= max_tokens for pack in packs):
                ways.append((len(packs), max(size(rows, pack, True) for pack in packs)))
        (found,) = plan_packs(rows, max_tokens=max_tokens, num_ranks=1, share_prefix=True)
        assert (len(found), max(size(rows, pack, True) for pack in found)) == min(ways)


def test_two_ranks_share_the_rows_of_one_pack() -> None:
    rows = [[1, i, i] for i in range(8)]
    plan = plan_packs(rows, max_tokens=1000, num_ranks=2, share_prefix=True)
    assert [[len(pack) for pack in packs] for packs in plan] == [[4], [4]]


def test_rows_with_a_common_prefix_are_in_the_same_pack() -> None:
    rows = [[1, 1, 1, 5], [2, 2, 2, 5], [1, 1, 1, 6], [2, 2, 2, 6]]
    (packs,) = plan_packs(rows, max_tokens=5, num_ranks=1, share_prefix=True)
    assert sorted(map(sorted, packs)) == [[0, 2], [1, 3]]


def test_a_row_that_is_a_prefix_of_others_adds_no_tokens() -> None:
    rows = [[1, 2], [1, 2, 3], [1, 2]]
    (packs,) = plan_packs(rows, max_tokens=3, num_ranks=1, share_prefix=True)
    assert [sorted(pack) for pack in packs] == [[0, 1, 2]]


def test_a_pack_has_the_tokens_and_position_ids_of_its_rows(
    make_encoded: Callable[..., EncodedRows],
) -> None:
    encoded = make_encoded()
    rows = list(range(9))
    (batch,) = step_micro_batches(
        encoded, rows, mode="prefix_packed", max_tokens=10_000, train_on_inputs=False
    )
    assert batch.rows is not None
    assert batch.position_ids is not None
    expected = {tuple(encoded.row(row)[:-1].tolist()) for row in rows}
    spans = spans_of_leaves(batch.rows)
    assert {tuple(batch.input_ids[0, span].tolist()) for span in spans} == {
        row for row in expected if not any(row != other[: len(row)] == row for other in expected)
    }
    for span in spans:
        assert batch.position_ids[0, span].tolist() == list(range(len(span)))


def spans_of_leaves(rows: PackedRows) -> list[list[int]]:
    """The positions of rows that are no prefix of others, found from their ends."""
    starts, inner = rows.offsets(), {segment.parent for segment in rows.segments}
    spans = []
    for leaf in set(range(len(rows.segments))) - inner:
        span: list[int] = []
        index = leaf
        while index >= 0:
            span = [*range(starts[index], starts[index + 1]), *span]
            index = rows.segments[index].parent
        spans.append(span)
    return spans


def test_common_prefixes_are_segments_on_several_levels() -> None:
    rows = [[1, 2, 5], [1, 2, 3, 4, 6], [1, 2, 3, 4, 7], [1, 2], [1, 2, 3, 4, 8, 8], [9]]
    packed, positions = pack_rows(rows, share_prefix=True)
    assert packed.segments == (
        Segment(-1, 0, 1),  # 9
        Segment(-1, 0, 2),  # 1 2
        Segment(1, 2, 1),  # 5
        Segment(1, 2, 2),  # 3 4
        Segment(3, 4, 1),  # 6
        Segment(3, 4, 1),  # 7
        Segment(3, 4, 2),  # 8 8
    )
    assert [place.tolist() for place in positions] == [
        [1, 2, 3], [1, 2, 4, 5, 6], [1, 2, 4, 5, 7], [1, 2], [1, 2, 4, 5, 8, 9], [0],
    ]  # fmt: skip


def test_similar_segments_are_computed_together() -> None:
    rows = [[1, 2, 3], [1, 2, 4], [1, 5, 5, 5], [6], [7]]
    packed, _ = pack_rows(rows, share_prefix=True)
    assert [(run.first, run.num_segments, *run.segment) for run in packed.runs()] == [
        (0, 3, -1, 0, 1),  # 1, 6, 7
        (3, 1, 0, 1, 1),  # 1 2
        (4, 1, 0, 1, 3),  # 1 5 5 5
        (5, 2, 3, 2, 1),  # 1 2 3, 1 2 4
    ]


def test_whole_rows_share_nothing() -> None:
    packed, positions = pack_rows([[1, 2, 3], [1, 2]], share_prefix=False)
    assert packed == PackedRows.whole([2, 3])
    assert [place.tolist() for place in positions] == [[2, 3, 4], [0, 1]]


def test_a_pack_has_a_position_for_each_distinct_prefix_of_its_rows() -> None:
    for seed in range(60):
        rows = random_rows(seed)
        packed, positions = pack_rows(rows, share_prefix=True)
        assert packed.offsets()[-1] == size(rows, list(range(len(rows))), share=True)
        for row, place in zip(rows, positions, strict=True):
            assert packed.position_ids()[place].tolist() == list(range(len(row)))


def test_a_pack_has_no_repeated_prefixes_and_no_last_tokens(
    make_encoded: Callable[..., EncodedRows],
) -> None:
    """The last token of a row is only a target and not an input."""
    encoded, rows = make_encoded(), list(range(9))
    fed = [encoded.row(row)[:-1].tolist() for row in rows]
    lengths = {}
    for mode in ("packed", "prefix_packed"):
        (batch,) = step_micro_batches(
            encoded, rows, mode=mode, max_tokens=10_000, train_on_inputs=False
        )
        lengths[mode] = batch.input_ids.shape[1]
    assert lengths == {"packed": size(fed, rows, False), "prefix_packed": size(fed, rows, True)}
    assert lengths["prefix_packed"] <= lengths["packed"] - 2 * 8 - 4 - 2


def test_equal_targets_are_merged_and_their_weights_are_added() -> None:
    positions, targets = torch.tensor([4, 1, 4, 4]), torch.tensor([9, 2, 9, 3])
    found = merge_targets(positions, targets, torch.tensor([0.5, 1.0, 0.25, 2.0]))
    assert [tensor.tolist() for tensor in found] == [[1, 4, 4], [2, 3, 9], [1.0, 2.0, 0.75]]
