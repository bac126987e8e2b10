from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.smt.scores import (
    SCORES,
    STEP_SCORES,
    ScoreTable,
    block_statistics,
    step_statistics,
)

SHAPES = {"b.q_proj": (24, 48), "a.k_proj": (12, 48)}


def draws(seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
        for name, shape in SHAPES.items()
    }


def table(block_size: int, seed: int = 0) -> ScoreTable:
    statistics = {n: block_statistics(g, w, block_size) for n, (g, w) in draws(seed).items()}
    return ScoreTable(block_size, statistics, 10_000, 5, {"shards": 2})


def direct(gradient: Tensor, weight: Tensor, score: str) -> Tensor:
    """The score of one block by its definition."""
    g, w = gradient.double(), weight.double()
    return {
        "mean_of_abs": g.abs().mean(),
        "abs_of_mean": g.mean().abs(),
        "l2": g.norm(),
        "saliency": (g * w).abs().mean(),
    }[score]


@pytest.mark.parametrize("score", SCORES)
def test_scores_follow_from_their_definitions(score: str) -> None:
    scores = table(6).scores(score=score)
    for name, (g, w) in draws().items():
        for row in range(SHAPES[name][0] // 6):
            for col in range(SHAPES[name][1] // 6):
                at = (slice(6 * row, 6 * row + 6), slice(6 * col, 6 * col + 6))
                torch.testing.assert_close(scores[name][row, col], direct(g[at], w[at], score))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("block_size", [2, 4, 6, 12])
def test_coarsening_equals_scoring_at_the_coarse_size(score: str, block_size: int) -> None:
    fine, coarse = table(2).scores(block_size, score), table(block_size).scores(score=score)
    for name in SHAPES:
        torch.testing.assert_close(fine[name], coarse[name], rtol=1e-12, atol=1e-14)


def step_table(block_size: int) -> tuple[ScoreTable, dict[str, Tensor]]:
    """A table with the statistics of three steps, and the gradients of the steps, (3, O, I)."""
    generator = torch.Generator().manual_seed(4)
    steps = {name: torch.randn(3, *shape, generator=generator) for name, shape in SHAPES.items()}
    statistics = {
        name: torch.cat(
            [
                block_statistics(gradients.sum(0), gradients[0], block_size),
                sum(step_statistics(g, block_size) for g in gradients),
            ]
        )
        for name, gradients in steps.items()
    }
    return ScoreTable(block_size, statistics, 10_000, num_steps=3), steps


@pytest.mark.parametrize("block_size", [2, 6])
def test_scores_of_steps_follow_from_their_definitions_at_every_size(block_size: int) -> None:
    whole, steps = step_table(block_size)
    for name, gradients in steps.items():
        parts = gradients.double().view(3, SHAPES[name][0] // 12, 12, SHAPES[name][1] // 12, 12)
        expected = {
            "step_mean_of_abs": parts.abs().mean((0, 2, 4)),
            "step_l2": parts.square().sum((0, 2, 4)).sqrt(),
            "mean_of_abs": parts.sum(0).abs().mean((1, 3)),
        }
        for score, values in expected.items():
            torch.testing.assert_close(whole.scores(12, score)[name], values)


@pytest.mark.parametrize("score", STEP_SCORES)
def test_a_table_without_steps_says_how_to_get_them(score: str) -> None:
    with pytest.raises(UserError, match=r"selection\.score.*warmup\.per_step"):
        table(6).scores(score=score)


def test_small_gradients_do_not_underflow_when_squared() -> None:
    gradient = torch.full((2, 2), 1e-30)
    statistics = block_statistics(gradient, gradient, 2)
    assert statistics.dtype == torch.float64
    assert (statistics > 0).all()


def test_a_bfloat16_weight_gives_the_saliency_of_its_own_values() -> None:
    gradient, weight = draws()["b.q_proj"]
    low = weight.bfloat16()
    assert torch.equal(
        block_statistics(gradient, low, 6), block_statistics(gradient, low.double(), 6)
    )


def test_a_subset_keeps_the_order_of_the_table_and_unknown_modules_are_errors() -> None:
    whole = table(6)
    assert list(whole.subset(["a.k_proj", "b.q_proj"]).statistics) == ["b.q_proj", "a.k_proj"]
    assert whole.subset(["a.k_proj"]).shapes == {"a.k_proj": (12, 48)}
    with pytest.raises(UserError, match=r"of the warm-up; got 'v_proj'"):
        whole.subset(["v_proj"])


@pytest.mark.parametrize(
    ("block_size", "rule"), [(4, "multiple of 6"), (18, "b.q_proj is 24 x 48")]
)
def test_block_sizes_without_scores_are_errors(block_size: int, rule: str) -> None:
    with pytest.raises(UserError, match=f"{rule}.*use one of 6, 12"):
        table(6).scores(block_size)


def test_the_error_for_an_unknown_score_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match="mean_of_abs, abs_of_mean, l2, saliency, step_mean_of_abs, step_l2; got 'l1'",
    ):
        table(6).scores(score="l1")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = table(6)
    path = tmp_path / "new folder" / "score_table.safetensors"
    before.save(path)
    written = path.read_bytes()
    table(6).save(path)
    assert path.read_bytes() == written  # equal tables are equal files
    after = ScoreTable.load(path)
    assert list(after.statistics) == list(before.statistics)
    for name, statistics in before.statistics.items():
        assert torch.equal(after.statistics[name], statistics)
    for attribute in ("block_size", "num_base_parameters", "num_steps", "provenance"):
        assert getattr(after, attribute) == getattr(before, attribute)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["score_table.safetensors"]


def test_the_error_for_a_bad_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "score_table.safetensors"
    with pytest.raises(UserError, match=r"score_table.safetensors: must be a score table; got 'no"):
        ScoreTable.load(path)
    table(6).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"score_table.safetensors: must be a whole"):
        ScoreTable.load(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"score_table.safetensors: must be a score table"):
        ScoreTable.load(path)
