"""The number of blocks for a budget, and the best blocks of a ranking."""

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
    """The number of blocks to choose: ``num_blocks``, or the number nearest to ``budget``.

    Args:
        budget: The trainable parameters as a fraction of the base model's, or None.
        num_blocks: The number of blocks, or None.
        num_eligible: The number of eligible blocks.
        block_size: The side L of a block in elements.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        group: The name of the group of modules in an error.

    Raises:
        UserError: Both or neither are given, or there are not as many eligible blocks.
    """
    if (budget is None) == (num_blocks is None):
        raise UserError(
            "selection",
            "must have exactly one of budget and num_blocks",
            got={"budget": budget, "num_blocks": num_blocks},
        )
    share = block_size**2 / num_base_parameters  # the budget of one block
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
        count: The number of blocks. Of equal scores, the first by module, row and column is chosen.

    Returns:
        Module name -> mask, (R, C) bool; and the relative margin at the cut,
        (last chosen - first rejected) / last chosen, None if nothing is rejected.
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
    """Masks the same number of blocks in each module, or all blocks if a module has fewer.

    Args:
        scores: Module name -> scores, (R, C) float64.
        count: The number of blocks of all modules together; each module's share is rounded down.

    Returns:
        The masks and the margin as in :func:`best`; the margin is the smallest of all modules.

    Raises:
        UserError: There are fewer blocks than modules.
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
    """The number of blocks in each module with scope ``per_module``.

    Raises:
        UserError: There are fewer blocks than modules.
    """
    if count < num_modules:
        raise UserError(
            "selection.scope",
            f"per_module must have at least one block for each of {num_modules} modules",
            got=f"{count} blocks",
            fix="raise the budget or use scope global",
        )
    return count // num_modules


def check_scores(scores: Mapping[str, Tensor]) -> None:
    """Raises a UserError if scores are not finite, or if all of them are zero."""
    for name, values in scores.items():
        if not bool(torch.isfinite(values).all()):
            raise UserError(
                "scores",
                f"must be finite; those of {name} are not",
                fix="look for overflowing gradients in the warm-up",
            )
    if not any(bool(values.any()) for values in scores.values()):
        raise UserError(
            "scores",
            "must not all be zero",
            fix="check that the warm-up's loss depends on the eligible modules",
        )
