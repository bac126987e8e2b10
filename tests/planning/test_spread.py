"""A planned selection has the right number of blocks, spread evenly over distinct places."""

from __future__ import annotations

import pytest

from smt_ray.methods.blocks import EligibleBlocks, Ranking
from smt_ray.planning.spread import spread_places, spread_selection
from smt_ray.smt.grid import BlockGrid
from smt_ray.smt.selection import Selection

SHAPES = {"0.q": (8, 8), "0.k": (4, 8), "0.v": (4, 8), "1.q": (8, 8), "1.k": (4, 8)}


def spread(count: int, scope: str = "global", **groups: int) -> Selection:
    rankings = [
        Ranking(tuple(name for name in SHAPES if name.endswith(group)), number)
        for group, number in (groups or {"": count}).items()
    ]
    blocks = EligibleBlocks(
        SHAPES, num_parameters=1000, table_block_size=2, block_size=2, rankings=tuple(rankings)
    )
    return spread_selection(blocks, scope)


@pytest.mark.parametrize("count", [1, 4, 5, 23, 50, 56])  # 56 is the number of all blocks
def test_exactly_as_many_blocks_are_chosen_at_distinct_places_of_the_grid(count: int) -> None:
    selection = spread(count)
    assert selection.num_blocks == count
    for name, module in selection.modules.items():
        grid = BlockGrid(*SHAPES[name], 2)
        places = {tuple(pair) for pair in module.indices.tolist()}
        assert len(places) == len(module.indices)
        assert all(row < grid.num_rows and col < grid.num_cols for row, col in places)


def test_modules_share_evenly_and_small_ones_leave_the_rest_to_others() -> None:
    assert set(spread(20).counts().values()) == {4}
    counts = spread(48).counts()
    assert [counts[name] for name in ("0.k", "0.v", "1.k")] == [8, 8, 8]
    assert {counts["0.q"], counts["1.q"]} == {12}


def test_blocks_of_siblings_use_as_many_columns_as_possible() -> None:
    modules = spread(5).modules
    columns = [set(modules[name].indices[:, 1].tolist()) for name in ("0.q", "0.k", "0.v")]
    assert len(set.union(*columns)) == 3


def test_a_scope_per_module_takes_the_same_whole_number_of_each() -> None:
    assert set(spread(23, "per_module").counts().values()) == {4}


def test_groups_have_their_own_numbers_and_others_none() -> None:
    assert spread(0, q=5, v=2).counts() == {"0.q": 3, "0.v": 2, "1.q": 2}


@pytest.mark.parametrize("wanted", [5, 8, 30, 107, 224])  # 224 is the number of all parameters
def test_columns_come_as_near_to_the_number_of_parameters_as_whole_columns_do(wanted: int) -> None:
    blocks = EligibleBlocks(
        SHAPES, num_parameters=1000, table_block_size=2, block_size=1, shape="column",
        rankings=(Ranking(tuple(SHAPES), wanted),),
    )  # fmt: skip
    selection = spread_places(blocks)
    assert abs(selection.num_trainable - wanted) <= 4  # half of the largest column
    assert all(number <= SHAPES[name][1] for name, number in selection.counts().items())
