"""Claims about the parts of a pack: together they are its allowed pairs, each once."""

from __future__ import annotations

import pytest
import torch

from smt_ray.data.packing import PackedRows
from smt_ray.training.attention.cores import FlashCpu
from smt_ray.training.attention.parts import CHUNK, make_parts
from smt_ray.training.attention.sequences import Sequences
from tests.training.attention.reference import allowed, make_rows


@pytest.mark.parametrize("window", [None, 1, 5, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_each_allowed_pair_is_in_one_part(window: int | None, seed: int) -> None:
    rows = make_rows(seed=seed)
    assert any(segment.parent >= 0 for segment in rows.segments)
    assert torch.equal(_pairs(rows, window), allowed(rows, window).int())


@pytest.mark.parametrize("window", [7, CHUNK, CHUNK + 50])
def test_long_rows_with_a_window_are_computed_in_chunks(window: int) -> None:
    rows = make_rows(longest=2 * CHUNK + 30)
    parts = make_parts(rows, window)
    assert torch.equal(_pairs(rows, window), allowed(rows, window).int())
    assert max(part.queries.length for part in parts) == CHUNK
    keys = [sum(s.length for s in part.before) + part.own.length for part in parts]
    assert max(keys) <= CHUNK + window - 1


def test_rows_without_common_prefixes_are_causal_parts_alone() -> None:
    parts = make_parts(PackedRows.whole([3, 3, 5]), window=None)
    assert [(part.first, part.num_sequences, part.length) for part in parts] == [
        (0, 2, 3),
        (6, 1, 5),
    ]
    assert all(part.causal and not part.before and not part.adds for part in parts)


def _pairs(rows: PackedRows, window: int | None) -> torch.Tensor:
    """How many parts have each pair of query and key, (N, N)."""
    num_tokens = rows.offsets()[-1]
    found = torch.zeros(num_tokens, num_tokens, dtype=torch.int32)
    places = torch.arange(num_tokens, dtype=torch.float64)[:, None, None]
    for part in make_parts(rows, window):
        sequences = Sequences(part, FlashCpu())
        queries, keys, _ = sequences.batch(places, places, places)
        seen = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool)
        masking = sequences.masking(places)
        if masking.causal:
            seen = seen.tril()
        if masking.bias is not None:
            seen = masking.bias == 0
        for one, other in zip(queries[:, 0, :, 0].long(), keys[:, 0, :, 0].long(), strict=True):
            found[one[:, None], other] += seen.int()
    return found
