"""Claims about the cache with reserved memory, against transformers' own cache."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, MistralConfig

from smt_ray.evaluation.reserved_cache import gather, is_plain

LAYERS, HEADS, SIZE = 2, 3, 4


def states(num_rows: int, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(num_rows, HEADS, num_tokens, SIZE), torch.randn(
        num_rows, HEADS, num_tokens, SIZE
    )


def grown(num_rows: int, num_tokens: int) -> DynamicCache:
    cache = DynamicCache()
    for index in range(LAYERS):
        cache.update(*states(num_rows, num_tokens), index)
    return cache


def test_it_holds_the_same_tokens_as_transformers_cache_and_copies_none() -> None:
    expected = grown(2, 5)
    found = gather([(copied(expected), everywhere(2, 5))], everywhere(2, 5), 2, 8)
    places = [layer.keys.data_ptr() for layer in found.layers]
    for _ in range(3):
        for index in range(LAYERS):
            new = states(2, 1)
            for ours, theirs in zip(
                found.update(*new, index), expected.update(*new, index), strict=True
            ):
                assert torch.equal(ours, theirs)
        assert found.get_seq_length() == expected.get_seq_length()
    assert [layer.keys.data_ptr() for layer in found.layers] == places
    assert is_plain(found)


def copied(cache: DynamicCache) -> DynamicCache:
    other = DynamicCache()
    for index, layer in enumerate(cache.layers):
        other.update(layer.keys.clone(), layer.values.clone(), index)
    return other


def everywhere(num_rows: int, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(num_rows, num_tokens).nonzero(as_tuple=True)


def test_tokens_of_two_caches_go_to_their_new_places_and_other_places_are_zero() -> None:
    long, short = grown(3, 6), grown(2, 2)
    keys, values = long.layers[1].keys.clone(), short.layers[1].values.clone()
    of_long = torch.tensor([[0] * 6, [1, 0, 0, 1, 1, 1], [0] * 6]).nonzero(as_tuple=True)
    of_short = torch.tensor([[0, 0], [1, 1]]).nonzero(as_tuple=True)
    places = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]).nonzero(as_tuple=True)
    found = gather([(long, of_long), (short, of_short)], places, 2, 9).layers[1]
    assert found.keys.shape == (2, HEADS, 4, SIZE)
    assert torch.equal(found.keys[0], keys[1][:, [0, 3, 4, 5]])
    assert torch.equal(found.values[1, :, 2:], values[1])
    assert not found.values[1, :, :2].any()
    with pytest.raises(AssertionError, match="more tokens than were reserved"):
        found.update(*states(2, 6))


def test_a_cache_that_drops_tokens_is_not_plain() -> None:
    window = MistralConfig(num_hidden_layers=2, sliding_window=6)
    assert not is_plain(DynamicCache(config=window))
    assert not is_plain(None)
    assert is_plain(grown(1, 1))
