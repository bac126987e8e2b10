"""Checks on a model without weights that LoRA trains exactly the linears that it names.

peft sends some names elsewhere: in models with fused experts, ``up_proj`` adapts the experts' 3-D
parameters too. So the adapted modules are counted before anything is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import nn

from smt_ray.errors import UserError
from smt_ray.methods.lora_targets import find_targets

_FACTORS = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.", ".lora_embedding_")


class Adapting(Protocol):
    """What the check needs of the method."""

    def prepare(self, model: nn.Module) -> None:
        """Adapts a model."""
        ...

    def loading_problem(self, plain: nn.Module, prepared: nn.Module) -> str | None:
        """What is wrong with the adapter when it is loaded."""
        ...


def adapter_problem(
    method: Adapting, target_modules: Sequence[str], skeleton: nn.Module
) -> str | None:
    """What peft would do other than asked, in words; None if nothing.

    Args:
        method: The method, which is not prepared yet.
        target_modules: The names of the linears that it shall adapt.
        skeleton: The base model on the meta device, which is not changed.
    """
    wanted = find_targets(skeleton, target_modules)
    model = copy.deepcopy(skeleton)
    try:
        method.prepare(model)
        problem = _other_modules(model, wanted)
        return problem or method.loading_problem(copy.deepcopy(skeleton), model)
    except UserError:
        raise
    except Exception as error:  # peft's code for a family may fail in any way
        lines = str(error).strip().splitlines()
        return f"peft fails with {type(error).__name__}: {lines[-1] if lines else ''}"


def check_adapter(problem: str | None, target_modules: Sequence[str]) -> None:
    """Refuses targets with which something else would be trained than they name.

    Args:
        problem: What :func:`adapter_problem` found.
        target_modules: The names of the linears.

    Raises:
        UserError: peft would adapt other modules, leave some out, or write an adapter that it
            cannot load.
    """
    if problem is not None:
        raise UserError(
            "lora.target_modules",
            f"must adapt exactly the linears that it names, but {problem}",
            got=list(target_modules),
            fix="name other linears, such as those of attention",
        )


def _other_modules(model: nn.Module, wanted: Mapping[str, nn.Module]) -> str | None:
    adapted = {
        next(name.partition(factor)[0] for factor in _FACTORS if factor in name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and any(factor in name for factor in _FACTORS)
    }
    others, left_out = sorted(adapted - set(wanted)), sorted(set(wanted) - adapted)
    if others:
        return f"peft would also adapt {others[0]} ({len(others)} modules)"
    if left_out:
        return f"peft would leave out {left_out[0]} ({len(left_out)} modules)"
    return None
