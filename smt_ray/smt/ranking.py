"""How many blocks a budget buys, and where the ranking is cut."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from smt_ray.errors import UserError


def number_of_blocks(
    budget: float | None,
    num_blocks: int | None,
    num_eligible: int,
    block_size: int,
    num_base_parameters: int,
    *,
    group: str | None = None,
) -> int:
    """The number of blocks asked for: ``num_blocks``, or the nearest to ``budget``.

    Args:
        budget: Trainable parameters as a fraction of the base model's.
        num_blocks: The other way to say it.
        num_eligible: Blocks there are to choose from.
        block_size: L, side of a block in elements.
        num_base_parameters: Parameters of the base model, tied ones once.
        group: The group that they are of, for an error to name.

    Raises:
        UserError: Both or neither are given, or there are not that many blocks.
    """
    if (budget is None) == (num_blocks is None):
        raise UserError(
            "selection",
            "must have exactly one of budget and num_blocks",
            got={"budget": budget, "num_blocks": num_blocks},
        )
    share = block_size**2 / num_base_parameters  # of the base model, in one block
    wanted = budget / share if budget is not None else num_blocks
    assert wanted is not None
    count = math.floor(wanted + 0.5) if math.isfinite(wanted) else 0
    if not 1 <= count <= num_eligible or (budget is None and count != num_blocks):
        field = "selection.num_blocks" if budget is None else "selection.budget"
        raise UserError(
            field if group is None else f"selection.groups.{group}",
            f"must come to 1 to {num_eligible} blocks of {block_size} x {block_size}, which are "
            f"{share:.3g} to {share * num_eligible:.4g} of the base model's parameters",
            got=num_blocks if budget is None else budget,
            fix="change it, the block size or target_modules",
        )
    return count


def best(scores: Mapping[str, Tensor], count: int) -> tuple[dict[str, Tensor], float | None]:
    """Masks the ``count`` highest scores of all modules in one ranking.

    Args:
        scores: Module name -> scores, (R, C) float64.
        count: Blocks to take. Of equal scores the first in module, row and column wins.

    Returns:
        Module name -> mask, (R, C) bool; and the relative margin at the cut,
        (last chosen - first rejected) / last chosen, None when nothing is rejected.
    """
    flat = torch.cat([values.flatten() for values in scores.values()])
    order = torch.argsort(flat, descending=True, stable=True)
    mask = torch.zeros(flat.shape, dtype=torch.bool)
    mask[order[:count]] = True
    parts = torch.split(mask, [values.numel() for values in scores.values()])
    masks = {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
    if count == len(flat):
        return masks, None
    last, rejected = float(flat[order[count - 1]]), float(flat[order[count]])
    return masks, (last - rejected) / abs(last) if last else 0.0


def best_of_each(
    scores: Mapping[str, Tensor], count: int
) -> tuple[dict[str, Tensor], float | None]:
    """Masks the same number of blocks in each module, or all where it has fewer.

    Args:
        scores: Module name -> scores, (R, C) float64.
        count: Blocks to take in all: each module gives the whole part of its equal share.

    Returns:
        As :func:`best`; the margin is the smallest of the modules'.

    Raises:
        UserError: There are fewer blocks to take than modules.
    """
    share = share_of_each(count, len(scores))
    masks: dict[str, Tensor] = {}
    margins: list[float] = []
    for name, values in scores.items():
        mask, margin = best({name: values}, min(share, values.numel()))
        masks |= mask
        if margin is not None:
            margins.append(margin)
    return masks, min(margins, default=None)


def share_of_each(count: int, num_modules: int) -> int:
    """Blocks that each module gives to ``count`` with scope ``per_module``.

    Raises:
        UserError: There are fewer blocks to take than modules.
    """
    if count < num_modules:
        raise UserError(
            "selection.scope",
            f"per_module must have at least one block for each of {num_modules} modules",
            got=f"{count} blocks",
            fix="raise the budget or use scope global",
        )
    return count // num_modules
