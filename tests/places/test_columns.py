"""The chosen columns are those with the highest scores, within a number of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.places.columns import (
    column_scores,
    column_statistics,
    random_columns,
    select_columns,
)
from smt_ray.places.selection import PlaceSelection, read_shapes

SHAPES = {"0.q": (8, 12), "0.k": (4, 12), "0.down": (8, 20)}


def draw(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(in_features, generator=generator, dtype=torch.float64)
        for name, (_, in_features) in SHAPES.items()
    }


def select(scores: dict[str, Tensor], wanted: int, scope: str = "global") -> PlaceSelection:
    return select_columns(
        scores, SHAPES, [(list(SHAPES), wanted)], num_base_parameters=1000, score="l2", scope=scope
    )


def columns(selection: PlaceSelection) -> dict[str, list[int]]:
    return {name: module.places.tolist() for name, module in selection.modules.items()}


@pytest.mark.parametrize("score", ["mean_of_abs", "abs_of_mean", "l2", "saliency"])
def test_scores_follow_from_their_definitions(score: str) -> None:
    generator = torch.Generator().manual_seed(0)
    g, w = (torch.randn(6, 9, generator=generator) for _ in range(2))
    expected = {
        "mean_of_abs": g.abs().mean(0),
        "abs_of_mean": g.mean(0).abs(),
        "l2": g.norm(dim=0),
        "saliency": (g * w).abs().mean(0),
    }[score]
    found = column_scores(column_statistics(g, w), 6, score)
    torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wanted", [6, 30, 57, 200, 304])
def test_the_best_columns_are_taken_until_the_number_is_nearest(wanted: int) -> None:
    scores = draw()
    ranked = sorted(
        ((float(s), name, i) for name, values in scores.items() for i, s in enumerate(values)),
        reverse=True,
    )
    totals = [0]
    for _, name, _ in ranked:
        totals.append(totals[-1] + SHAPES[name][0])
    count = min(range(len(totals)), key=lambda n: abs(totals[n] - wanted))
    expected = {name: sorted(i for _, of, i in ranked[:count] if of == name) for name in SHAPES}
    selection = select(scores, wanted)
    assert columns(selection) == expected
    assert selection.num_trainable == totals[count]
    assert selection.budget == totals[count] / 1000
    assert selection.num_chosen == count


def test_per_module_takes_the_same_share_of_the_columns_of_each() -> None:
    scores = draw()
    selection = select(scores, 76, "per_module")  # a quarter of all 304
    assert selection.counts() == {"0.q": 3, "0.k": 3, "0.down": 5}
    for name, chosen in columns(selection).items():
        assert chosen == sorted(scores[name].argsort(descending=True)[: len(chosen)].tolist())


def test_groups_have_rankings_and_budgets_of_their_own() -> None:
    scores = draw()
    selection = select_columns(
        scores, SHAPES, [(["0.q", "0.k"], 24), (["0.down"], 16)],
        num_base_parameters=1000, score="l2", scope="global",
    )  # fmt: skip
    assert selection.counts()["0.down"] == 2
    assert selection.counts()["0.q"] * 8 + selection.counts()["0.k"] * 4 == 24


def test_random_scores_are_a_function_of_the_seed() -> None:
    a, b, c = (random_columns(SHAPES, seed) for seed in (1, 1, 2))
    assert {name: len(values) for name, values in a.items()} == {"0.q": 12, "0.k": 12, "0.down": 20}
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["0.q"], c["0.q"])


def test_less_than_a_column_is_refused() -> None:
    with pytest.raises(UserError, match=r"^selection\.budget: must come to at least one column"):
        select(draw(), 1)
    with pytest.raises(UserError, match=r"^selection\.budget: must come to at least one column"):
        select(draw(), 6, "per_module")


def test_a_selection_is_saved_and_read(tmp_path: Path) -> None:
    selection = select(draw(), 57)
    selection.save(tmp_path / "columns.safetensors")
    found = PlaceSelection.load(tmp_path / "columns.safetensors")
    assert (found.kind, found.origin) == ("column", selection.origin)
    assert columns(found) == columns(selection)
    assert read_shapes(tmp_path / "columns.safetensors") == SHAPES
    assert f"{selection.num_chosen} columns" in found.summary()
