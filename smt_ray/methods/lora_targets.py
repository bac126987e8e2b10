"""The linears that LoRA adapts, and the rank that a budget comes to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from smt_ray.errors import UserError
from smt_ray.models.inspect import find_linears, trainable_linears
from smt_ray.models.targets import attention_inputs, mlp_linears
from smt_ray.smt.modules import match_modules, modules_in_layers

_ALPHA_OVER_RANK = 2


def find_targets(model: nn.Module, target_modules: Sequence[str]) -> dict[str, nn.Module]:
    """The linears that LoRA adapts, including GPT-2's, in the order of the model.

    Args:
        model: The plain model.
        target_modules: The names of the linears, or the last parts of their names.

    Raises:
        UserError: A name matches no module, a module that is not a linear, or a linear whose weight
            another module uses, too.
    """
    return find_linears(model, target_modules, field="lora.target_modules")


def target_choices(
    model: nn.Module,
    target_modules: Sequence[str] | Literal["auto"],
    unused: Sequence[str],
    layers: Sequence[int] | None = None,
) -> list[list[str]]:
    """The target modules to try, the preferred ones first.

    Args:
        model: The plain model.
        target_modules: The configured names. auto stands for the inputs of attention and the
            linears of MLPs, or for the inputs of attention alone.
        unused: The linears to leave out; see :func:`smt_ray.models.inspect.find_linears`.
        layers: The first and the last layer, counted from 0; None for all.
    """
    field = "lora.target_modules"
    names = trainable_linears(model, unused=unused)
    if target_modules == "auto":
        attention = attention_inputs(names, field=field)
        choices = [[*attention, *mlp_linears(names)], attention]
    else:
        choices = [list(target_modules)]
    return [_only(model, choice, unused, layers, field) for choice in choices]


def _only(
    model: nn.Module,
    targets: list[str],
    unused: Sequence[str],
    layers: Sequence[int] | None,
    field: str,
) -> list[str]:
    """The targets themselves, or whole names if the targets match linears to be left out, too."""
    found = list(find_linears(model, targets, field=field, unused=unused))
    if layers is not None:
        found = modules_in_layers(found, layers, field="lora.layers")
    everywhere = match_modules(dict(model.named_modules()), targets)
    return targets if found == everywhere else found


def choose_rank(
    shapes: Mapping[str, tuple[int, int]],
    budget: float,
    num_base_parameters: int,
    *,
    use_dora: bool,
) -> int:
    """The rank whose number of parameters is nearest to a budget.

    A linear has rank x (out + in) trained parameters, and ``out`` magnitudes more with DoRA.

    Args:
        shapes: The (out_features, in_features) of the adapted linears.
        budget: The trained parameters as a fraction of the base model's.
        num_base_parameters: The number of parameters of the base model, tied ones once.
        use_dora: Whether there are magnitudes.

    Raises:
        UserError: The nearest rank is less than 1, or more than full rank.
    """
    each = sum(o + i for o, i in shapes.values())
    magnitudes = sum(o for o, _ in shapes.values()) if use_dora else 0
    rank = math.floor((budget * num_base_parameters - magnitudes) / each + 0.5)
    largest = max(min(shape) for shape in shapes.values())
    if not 1 <= rank <= largest:
        least, most = ((r * each + magnitudes) / num_base_parameters for r in (1, largest))
        raise UserError(
            "lora.budget",
            f"must come to rank 1 to {largest}, which are {least:.3g} to {most:.4g} of the base"
            " model's parameters",
            got=budget,
            fix="change it or lora.target_modules",
        )
    return rank


def default_alpha(rank: int) -> int:
    """Twice the rank, as in the published baselines."""
    return _ALPHA_OVER_RANK * rank
