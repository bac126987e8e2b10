"""Numbers of parameters, and the largest of many values: in bounded memory, ties by place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from smt_ray.errors import UserError

_BITS = 16  # a bin has the values that share the upper 16 bits: at most 1/128 apart


def largest(values: Tensor, count: int) -> Tensor:
    """The places of the largest values, ascending; of equal values, the first are taken.

    Args:
        values: The values, (n,), not negative.
        count: Their number, at most n.
    """
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    cut, num_equal = _cut(values, count)
    equal = (values == cut).nonzero().flatten()[:num_equal]
    return torch.cat([(values > cut).nonzero().flatten(), equal]).sort().values


def number_of_parameters(
    budget: float,
    shapes: Mapping[str, tuple[int, int]],
    num_base_parameters: int,
    field: str,
) -> int:
    """The number of parameters that is nearest to a budget.

    Args:
        budget: The trained parameters as a fraction of the base model's.
        shapes: The (out_features, in_features) of the eligible modules.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        field: The name of the budget in an error.

    Raises:
        UserError: It is less than 1, or more than the eligible modules have.
    """
    count, eligible = round(budget * num_base_parameters), sum(o * i for o, i in shapes.values())
    if not 1 <= count <= eligible:
        raise UserError(
            field,
            f"must come to 1 to {eligible:,} eligible parameters, which are"
            f" {1 / num_base_parameters:.3g} to {eligible / num_base_parameters:.4g} of the base"
            " model's",
            got=budget,
            fix="change it or target_modules",
        )
    return count


def share_out(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Shares a number out in proportion to sizes, so that the shares add up to it."""
    total, shares, before = sum(sizes.values()), {}, 0
    for name, size in sizes.items():
        # Rounding the sums and not the shares keeps each share within one of its exact value.
        before_next = before + size
        shares[name] = count * before_next // total - count * before // total
        before = before_next
    return shares


def threshold(parts: Iterable[Tensor], again: Iterable[Tensor], count: int) -> tuple[float, int]:
    """The smallest of the largest values of many parts, of which one at a time is in memory.

    The bits of float32 values that are not negative are ordered like the values. So a histogram of
    their upper bits finds the bin of the cut, and only the values of that bin are put together.

    Args:
        parts: The values, in tensors (n,) float32.
        again: The same tensors once more.
        count: The number of the largest values, at most that of all values.

    Returns:
        The cut, and how many values that are equal to it belong to the largest.
    """
    histogram = torch.zeros(2 ** (31 - _BITS), dtype=torch.int64)
    for values in parts:
        histogram += torch.bincount(_bin_of(values), minlength=len(histogram))
    from_the_top = histogram.flip(0).cumsum(0).flip(0)
    cut_bin = int((from_the_top >= count).nonzero().max())
    above = int(from_the_top[cut_bin]) - int(histogram[cut_bin])
    inside = torch.cat([values[_bin_of(values) == cut_bin] for values in again])
    return _cut(inside, count - above)


def _bin_of(values: Tensor) -> Tensor:
    return values.view(torch.int32) >> _BITS


def _cut(values: Tensor, count: int) -> tuple[float, int]:
    cut = values.kthvalue(len(values) - count + 1).values
    return float(cut), count - int((values > cut).sum())
