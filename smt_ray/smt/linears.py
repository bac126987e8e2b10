"""The linears whose blocks can be trained, also those that store their weights transposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from smt_ray.smt.quantised import dequantised, is_quantised

_TRANSPOSED = ("transformers.pytorch_utils.Conv1D",)
"""The classes with y = x W + b and a weight (I, O): that of GPT-2 and its relatives."""

_SUBCLASSES = (
    # y = x W^T + b as in nn.Linear; only the bias is added after the product, not as a part of it.
    "transformers.models.falcon.modeling_falcon.FalconLinear",
)
"""The subclasses of ``nn.Linear`` whose forward is known to be the same map.

Others (quantised linears, routers) have a forward that a sparse layer would not compute.
"""


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module is exactly y = x W^T + b, so that blocks of its weight can be trained."""
    kind = type(module)
    return kind is nn.Linear or _name(kind) in (*_TRANSPOSED, *_SUBCLASSES)


def is_known_linear(module: nn.Module) -> bool:
    """Whether a module is a plain linear, or one that is known to be quantised."""
    return is_plain_linear(module) or is_quantised(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear stores its weight as (in_features, out_features)."""
    return _name(type(module)) in _TRANSPOSED


def as_dense(stored: Tensor, transposed: bool) -> Tensor:
    """The (O, I) view of a stored weight or of its gradient, or the blocks (M, L, L) of one.

    It is its own inverse: it also turns dense ones into stored ones.

    Args:
        stored: The weight, the gradient or the blocks as the linear stores its weight.
        transposed: Whether that is transposed; see :func:`is_transposed`.
    """
    return stored.mT if transposed else stored


def dense_weight(linear: nn.Module) -> Tensor:
    """The weight of a linear of any class, (O, I): a view, or a copy if it is quantised."""
    if is_quantised(linear):
        return dequantised(linear)
    return as_dense(linear.get_parameter("weight"), is_transposed(linear))


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """The (out_features, in_features) of a linear of any class."""
    if is_quantised(linear):
        return int(linear.out_features), int(linear.in_features)  # type: ignore[arg-type]
    first, second = linear.get_parameter("weight").shape
    return (second, first) if is_transposed(linear) else (first, second)


def linear_shapes(linears: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    """The (out_features, in_features) of each linear, by name."""
    return {name: linear_shape(linear) for name, linear in linears.items()}


@dataclass(frozen=True)
class Shell:
    """A linear without its parameters, to make a linear of the same class again.

    It holds no parameter, because FSDP and others may replace those of the model.

    Attributes:
        kind: The class of the linear.
        attributes: The plain values among its own attributes, such as ``in_features`` or ``nf``.
    """

    kind: type[nn.Module]
    attributes: dict[str, Any]

    @classmethod
    def of(cls, linear: nn.Module) -> Shell:
        """The shell of a linear; hooks and replaced methods are no part of it."""
        common = vars(nn.Module())
        own = {
            name: value
            for name, value in vars(linear).items()
            if name not in common and isinstance(value, bool | int | float | str | None)
        }
        return cls(type(linear), own)

    @classmethod
    def of_linear(cls, out_features: int, in_features: int) -> Shell:
        """The shell of an ``nn.Linear``."""
        return cls.of(nn.Linear(in_features, out_features, device="meta"))

    @property
    def transposed(self) -> bool:
        """Whether its linears store their weights as (I, O)."""
        return _name(self.kind) in _TRANSPOSED

    def fill(self, weight: Any, bias: Any) -> nn.Module:
        """Makes a linear with the given parameters (no bias is None), which are not copied."""
        linear = self.kind.__new__(self.kind)
        nn.Module.__init__(linear)
        vars(linear).update(self.attributes)
        linear.register_parameter("weight", weight)
        linear.register_parameter("bias", bias)
        return linear


def _name(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
