"""Claims about the scores without gradients."""

from __future__ import annotations

import pytest
import torch

from smt_ray.smt.controls import lift_scores, magnitude_scores, random_scores
from smt_ray.smt.selection import select_by_scores

SHAPES = {"q": (64, 32), "v": (16, 32)}


def test_magnitude_is_the_mean_absolute_weight_of_a_block() -> None:
    weight = torch.tensor([[1.0, -3.0, 0.0, 0.5], [2.0, -2.0, 0.5, 0.0]])
    assert magnitude_scores({"w": weight}, 2)["w"].tolist() == [[2.0, 0.25]]
    low = magnitude_scores({"w": weight.bfloat16()}, 2)["w"]
    assert (low.tolist(), low.dtype) == ([[2.0, 0.25]], torch.float64)


def test_lift_is_the_mean_absolute_value_of_the_part_of_a_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(8, 2, generator=generator), torch.randn(2, 12, generator=generator)
    low = left @ right  # of rank 2
    found, whole = lift_scores({"w": low}, 4, 2), magnitude_scores({"w": low}, 4)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)
    # Singular vectors are orthogonal, so the first part of this sum is the best one of rank 1.
    u, v = torch.linalg.qr(left).Q, torch.linalg.qr(right.t()).Q.t()
    both = 5 * u[:, :1] @ v[:1] + 2 * u[:, 1:] @ v[1:]
    expected = magnitude_scores({"w": 5 * u[:, :1] @ v[:1]}, 4)
    torch.testing.assert_close(lift_scores({"w": both}, 4, 1), expected, rtol=0, atol=1e-6)


def test_random_scores_are_a_function_of_the_seed() -> None:
    a, b, c = (random_scores(SHAPES, 8, seed) for seed in (1, 1, 2))
    assert {name: tuple(scores.shape) for name, scores in a.items()} == {"q": (8, 4), "v": (2, 4)}
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["q"], c["q"])


def test_random_scores_prefer_no_module_and_a_smaller_budget_chooses_a_subset() -> None:
    counts = {"q": 0, "v": 0}
    for seed in range(200):
        chosen = [
            select_by_scores(
                random_scores(SHAPES, 8, seed), block_size=8, num_base_parameters=10_000,
                num_blocks=n, score="random",
            )
            for n in (5, 10)
        ]  # fmt: skip
        for name in SHAPES:
            small, large = ({tuple(i) for i in s.modules[name].indices.tolist()} for s in chosen)
            assert small <= large
            counts[name] += len(large)
    # There are 32 blocks of q and 8 of v, so four fifths belong to q.
    assert counts["q"] / (counts["q"] + counts["v"]) == pytest.approx(0.8, abs=0.03)
