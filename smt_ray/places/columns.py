"""The selection of whole input columns, which are (out_features x 1) blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smt_ray.errors import UserError
from smt_ray.places.selection import ModulePlaces, PlaceSelection, Shapes
from smt_ray.smt.ranking import check_scores
from smt_ray.smt.scores import SCORES, element_statistics, score_of


def column_statistics(gradient: Tensor, weight: Tensor) -> Tensor:
    """Reduces a gradient sum to the four statistics of each column.

    Args:
        gradient: The signed sum of the warm-up steps' gradients, (O, I).
        weight: The weight of that gradient, (O, I), in any floating dtype.

    Returns:
        The sums over each column of g, abs(g), g^2 and abs(g * w): (4, I) in float64.
    """
    return torch.stack([part.sum(0) for part in element_statistics(gradient, weight)])


def column_scores(statistics: Tensor, out_features: int, score: str) -> Tensor:
    """The scores of the columns of one module, (I,) float64; see :meth:`ScoreTable.scores`.

    Args:
        statistics: The statistics of :func:`column_statistics`.
        out_features: The number O of elements of a column.
        score: The score, one of :data:`smt_ray.smt.scores.SCORES`.
    """
    assert score in SCORES, score
    return score_of(statistics, score, area=out_features)


def random_columns(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """A random score for each column, which is a function of the seed: module -> (I,) float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(in_features, generator=generator, dtype=torch.float64)
        for name, (_, in_features) in shapes.items()
    }


def check_room(
    shapes: Shapes, num_parameters: int, scope: str, field: str = "selection.budget"
) -> None:
    """Refuses a number of parameters that may come to no column, before any score is known.

    Args:
        shapes: The modules of one ranking.
        num_parameters: The number of parameters to be trained in them.
        scope: See :func:`select_columns`.
        field: The name of the budget in an error.

    Raises:
        UserError: It rounds to no column of the module with the largest columns or, with
            ``per_module``, of any module.
    """
    if scope == "per_module":
        _count_of_each(shapes, num_parameters, field)
        return
    largest = max(out_features for out_features, _ in shapes.values())
    if 2 * num_parameters <= largest:
        raise _too_few(field, "at least one column", num_parameters, largest)


def select_columns(
    scores: Mapping[str, Tensor],
    shapes: Shapes,
    rankings: Sequence[tuple[Sequence[str], int]],
    *,
    num_base_parameters: int,
    score: str,
    scope: str,
    provenance: Mapping[str, Any] | None = None,
) -> PlaceSelection:
    """Chooses the columns with the highest scores.

    Columns of different modules may have different numbers of elements. So a ranking takes the best
    columns until the number of trained parameters comes nearest to the wanted one.

    Args:
        scores: Module name -> the scores of its columns, (I,).
        shapes: The shapes of all these modules.
        rankings: The names of modules that are ranked together, and the number of parameters to be
            trained in them. No module has two rankings.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        score: The name of the scores.
        scope: ``global``, or ``per_module`` for the same share of the columns of each module.
        provenance: The origin of the scores, as JSON values.

    Raises:
        UserError: Scores are not finite or all zero, or a ranking has room for no column.
    """
    check_scores(scores)
    chosen: dict[str, Tensor] = {}
    for names, num_parameters in rankings:
        check_room({name: shapes[name] for name in names}, num_parameters, scope)
        of_ranking = {name: scores[name].double().cpu() for name in names}
        choose = _best if scope == "global" else _best_of_each
        chosen |= choose(of_ranking, shapes, num_parameters)
    modules = {
        name: ModulePlaces(shapes[name], chosen[name].to(torch.int32))
        for name in scores
        if name in chosen
    }
    origin = dict(provenance or {})
    return PlaceSelection("column", modules, num_base_parameters, score, scope, origin)


def _best(scores: Mapping[str, Tensor], shapes: Shapes, wanted: int) -> dict[str, Tensor]:
    """The columns of each module, ascending; of equal scores, the first are taken."""
    order = torch.argsort(torch.cat(list(scores.values())), descending=True, stable=True)
    sizes = torch.cat([torch.full((len(s),), shapes[name][0]) for name, s in scores.items()])
    count = _nearest(sizes[order].cumsum(0), wanted)
    assert count, "check_room asks for one column"
    mask = torch.zeros(len(order), dtype=torch.bool)
    mask[order[:count]] = True
    parts = mask.split([len(s) for s in scores.values()])
    return {name: part.nonzero().flatten() for name, part in zip(scores, parts, strict=True)}


def _best_of_each(scores: Mapping[str, Tensor], shapes: Shapes, wanted: int) -> dict[str, Tensor]:
    """The best columns of each module, in the same share of its columns."""
    counts = _count_of_each({name: shapes[name] for name in scores}, wanted)
    chosen = {}
    for name, values in scores.items():
        order = torch.argsort(values, descending=True, stable=True)
        chosen[name] = order[: counts[name]].sort().values
    return chosen


def _count_of_each(shapes: Shapes, wanted: int, field: str = "selection.budget") -> dict[str, int]:
    """The number of columns of each module, which is the same share of its columns."""
    share = wanted / sum(rows * columns for rows, columns in shapes.values())
    counts = {name: round(share * columns) for name, (_, columns) in shapes.items()}
    for name, count in counts.items():
        if not count:
            raise _too_few(field, f"at least one column of {name}", wanted, shapes[name][0])
    return counts


def _nearest(sums: Tensor, wanted: int) -> int:
    """How many of the first numbers have the sum that is nearest to the wanted one."""
    padded = torch.cat([sums.new_zeros(1), sums])
    return int((padded - wanted).abs().argmin())


def _too_few(field: str, rule: str, wanted: int, size: int) -> UserError:
    return UserError(
        field,
        f"must come to {rule}, which has {size:,} parameters",
        got=f"{wanted:,} parameters in all",
        fix="raise it, or use square blocks",
    )
