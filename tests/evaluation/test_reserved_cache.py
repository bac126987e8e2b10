"""Claims about memory that is reserved once, against transformers' cache that grows."""

from __future__ import annotations

import torch
from transformers import DynamicCache

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


def test_tokens_are_kept_as_a_cache_that_grows_keeps_them_and_none_is_copied() -> None:
    expected = grown(2, 5)
    found = gather([(grown_copy(expected), torch.arange(2))], 5, 8)
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


def grown_copy(cache: DynamicCache) -> DynamicCache:
    copied = DynamicCache()
    for index, layer in enumerate(cache.layers):
        copied.update(layer.keys.clone(), layer.values.clone(), index)
    return copied


def test_rows_of_two_caches_end_beside_each_other_after_zeros() -> None:
    long, short = grown(3, 6), grown(2, 2)
    keys, values = long.layers[1].keys.clone(), short.layers[1].values.clone()
    found = gather([(long, torch.tensor([2, 0])), (short, torch.tensor([1]))], 4, 9).layers[1]
    assert found.keys.shape == (3, HEADS, 4, SIZE)
    assert torch.equal(found.keys[:2], keys[[2, 0], :, 2:])
    assert torch.equal(found.values[2, :, 2:], values[1])
    assert not found.values[2, :, :2].any()


def test_what_keeps_less_than_every_token_is_not_plain() -> None:
    from transformers import MistralConfig

    window = MistralConfig(num_hidden_layers=2, sliding_window=6)
    assert not is_plain(DynamicCache(config=window))
    assert not is_plain(None)
    assert is_plain(grown(1, 1))
