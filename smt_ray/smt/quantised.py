"""Linears that bitsandbytes has quantised: they are recognised, and their weights are read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_CLASSES = ("bitsandbytes.nn.modules.Linear4bit", "bitsandbytes.nn.modules.Linear8bitLt")


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear whose weight is stored in 4 or 8 bits by bitsandbytes."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return any(name in _CLASSES for name in names)


def dequantised(linear: nn.Module) -> Tensor:
    """The weight that a quantised linear computes with, (O, I), a copy in a floating dtype.

    Raises:
        ValueError: The weight is not in bitsandbytes' own order, because the linear has computed in
            evaluation mode on a CPU.
    """
    import bitsandbytes.functional as bnb

    weight: Any = linear.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        if getattr(state, "packing_format_for_cpu", False):
            raise ValueError("bitsandbytes has packed and rounded this weight for a CPU")
        dense: Tensor = bnb.dequantize_4bit(weight.data, state)
        return dense
    own: Any = linear.state
    scales = weight.SCB if own.SCB is None else own.SCB
    return bnb.int8_vectorwise_dequant(weight.data, scales.to(weight.device))  # type: ignore[no-any-return]


def quantised_sizes(model: nn.Module) -> dict[int, int]:
    """The number of elements of each quantised weight, O x I, by the id of its parameter.

    A 4-bit weight is stored as half as many bytes, so ``numel`` does not say it.
    """
    return {
        id(module.weight): int(module.out_features) * int(module.in_features)  # type: ignore[arg-type]
        for module in model.modules()
        if is_quantised(module)
    }
