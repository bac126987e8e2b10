"""A counter of the FLOPs of matrix products, in runs on real or on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
_CAUSAL, _CAUSAL_BACKWARD = 4, 7  # the places of ``is_causal`` among the arguments


class Flops(TorchDispatchMode):
    """Counts the FLOPs of matrix products while the context is open; a product's add counts, too.

    It sees every operation of torch's dispatcher, also in the backward pass and in custom autograd
    functions. So it counts the products that the code really computes: those of recomputed layers
    twice, and those of gradients only where they are needed. Causal attention counts half of the
    pairs of positions, and only the chosen experts of a layer are counted.

    >>> with Flops() as flops:
    ...     loss(batch).backward()
    >>> flops.total
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs one operation and counts its products."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.total += _count(func, args, kwargs, result)
        return result


def _count(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    operation = func._overloadpacket
    name = operation.__name__
    if name == _ATTENTION:
        return _products(2, args[0], args[1], args[2], any(args[_CAUSAL : _CAUSAL + 1]))
    if name == f"{_ATTENTION}_backward":
        # The scores again, and the gradients of weights, queries, keys and values.
        is_causal = any(args[_CAUSAL_BACKWARD : _CAUSAL_BACKWARD + 1])
        return _products(5, args[1], args[2], args[3], is_causal)
    if name == "_grouped_mm":
        return _grouped(args[0], args[1])
    if name == "grouped_mm_fallback":
        return _grouped(args[0], args[1])
    if name == "grouped_mm_fallback_backward":
        return 2 * _grouped(args[0], args[1])
    formula = flop_registry.get(operation)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0


def _products(
    number: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_causal: bool
) -> int:
    """Products over the pairs of queries (R, H, n, D) and keys (R, K, m, D)."""
    rows, heads, num_queries, width = query.shape
    num_keys = key.shape[2]
    pairs = num_queries * num_keys
    if is_causal:
        pairs = pairs // 2 + num_queries // 2
    return number * rows * heads * pairs * (width + value.shape[3])


def _grouped(one: torch.Tensor, other: torch.Tensor) -> int:
    """The product of the rows of each expert with its weight, or of their gradients."""
    return 2 * one.shape[-2] * one.shape[-1] * other.shape[-1]
