"""Claims about the warning of ranks that have too little to do."""

from __future__ import annotations

import pytest

from smt_ray.reporting.text.ranks import rank_warning


@pytest.mark.parametrize(("rows", "ranks"), [(1, 1), (16, 1), (16, 2), (64, 8)])
def test_eight_rows_a_rank_are_enough(rows: int, ranks: int) -> None:
    assert rank_warning(rows, ranks) is None


def test_the_warning_names_the_keys_and_a_number_of_ranks_that_is_enough() -> None:
    text = rank_warning(16, 4)
    assert text is not None
    assert "4 rows of each step" in text
    assert "training.batch_size 16" in text
    assert "resources.num_workers=2" in text
    assert rank_warning(16, 2) is None


def test_ranks_without_any_row_are_counted() -> None:
    assert "4 of them have nothing to do" in str(rank_warning(4, 8))
    assert "resources.num_workers=1" in str(rank_warning(4, 8))
