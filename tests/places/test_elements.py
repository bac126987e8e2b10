"""The chosen elements are those with the largest absolute gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.places.elements import select_elements
from smt_ray.places.kept import read_kept, write_kept
from smt_ray.places.largest import largest, number_of_parameters, share_out, threshold
from smt_ray.places.selection import PlaceSelection

SHAPES = {"0.q": (8, 12), "0.k": (4, 12), "1.q": (8, 12)}


def draw(seed: int = 0, *, decimals: int = 6) -> dict[str, Tensor]:
    """Gradients with signs; few decimals make many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).round(decimals=decimals)
        for name, shape in SHAPES.items()
    }


def select(gradients: dict[str, Tensor], count: int, scope: str) -> dict[str, list[int]]:
    selection = select_elements(
        gradients.__getitem__, SHAPES, count, num_base_parameters=1000, scope=scope
    )
    assert selection.num_trainable == count
    return {name: module.places.tolist() for name, module in selection.modules.items()}


def best(values: Tensor, count: int) -> list[int]:
    """The places of the largest absolute values; of equal ones, the first."""
    return sorted(torch.argsort(values.abs(), descending=True, stable=True)[:count].tolist())


@pytest.mark.parametrize("decimals", [6, 1, 0])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 239, 240])
def test_a_global_ranking_is_that_of_all_elements_together(count: int, decimals: int) -> None:
    gradients = draw(decimals=decimals)
    whole = best(torch.cat([g.flatten() for g in gradients.values()]), count)
    starts = {"0.q": 0, "0.k": 96, "1.q": 144}
    expected = {
        name: [n - start for n in whole if 0 <= n - start < gradients[name].numel()]
        for name, start in starts.items()
    }
    assert select(gradients, count, "global") == expected


@pytest.mark.parametrize("decimals", [6, 0])
@pytest.mark.parametrize("count", [5, 24, 240])
def test_per_module_takes_the_same_share_of_the_largest_of_each(count: int, decimals: int) -> None:
    gradients = draw(decimals=decimals)
    shares = share_out(count, {name: g.numel() for name, g in gradients.items()})
    expected = {name: best(g.flatten(), shares[name]) for name, g in gradients.items()}
    assert select(gradients, count, "per_module") == expected


@pytest.mark.parametrize("count", [0, 1, 13, 997])
def test_shares_add_up_and_are_within_one_of_the_exact_ones(count: int) -> None:
    sizes = {"a": 300, "b": 1, "c": 700, "d": 996}
    shares = share_out(count, sizes)
    assert sum(shares.values()) == count
    for name, size in sizes.items():
        assert abs(shares[name] - count * size / sum(sizes.values())) < 1


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_cut_of_many_parts_is_found_from_their_bits(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(size, generator=generator) * scale for size in (500, 1, 800)]
    ordered = torch.cat(parts).sort(descending=True).values
    for count in (1, 2, 650, 1301):
        assert threshold(parts, parts, count) == (float(ordered[count - 1]), 1)


def test_no_elements_of_a_module_are_none() -> None:
    assert largest(torch.ones(3), 0).tolist() == []


def test_gradients_that_are_not_finite_or_all_zero_are_refused() -> None:
    gradients = draw()
    gradients["0.k"][1, 1] = float("nan")
    for scope in ("per_module", "global"):
        with pytest.raises(UserError, match=r"those of 0\.k"):
            select(gradients, 9, scope)
        with pytest.raises(UserError, match="must not all be zero"):
            select({name: torch.zeros(shape) for name, shape in SHAPES.items()}, 9, scope)


@pytest.mark.parametrize(("budget", "expected"), [(0.001, 1), (0.0104, 10), (0.24, 240)])
def test_a_budget_is_a_fraction_of_the_base_model(budget: float, expected: int) -> None:
    assert number_of_parameters(budget, SHAPES, 1000, "sift.budget") == expected


@pytest.mark.parametrize("budget", [1e-9, 0.2406, 1.0])
def test_an_impossible_budget_is_refused_with_the_possible_ones(budget: float) -> None:
    with pytest.raises(UserError, match=r"^sift\.budget: must come to 1 to 240 eligible"):
        number_of_parameters(budget, SHAPES, 1000, "sift.budget")


def test_a_selection_and_a_gradient_are_saved_and_read(tmp_path: Path) -> None:
    gradients = draw()
    selection = select_elements(
        gradients.__getitem__, SHAPES, 9, num_base_parameters=1000, scope="global",
        provenance={"model": "m"},
    )  # fmt: skip
    selection.save(tmp_path / "elements.safetensors")
    found = PlaceSelection.load(tmp_path / "elements.safetensors")
    assert (found.origin, found.provenance) == (selection.origin, {"model": "m"})
    for name, module in selection.modules.items():
        assert found.modules[name].shape == SHAPES[name]
        assert torch.equal(found.modules[name].places, module.places)
    assert "9 elements = 9 parameters, 0.900% of the base model's 1,000" in found.summary()
    path = write_kept(gradients["0.q"], "0.q", tmp_path)
    assert torch.equal(read_kept(path), gradients["0.q"])
    with pytest.raises(UserError, match="selection of elements"):
        PlaceSelection.load(path)
