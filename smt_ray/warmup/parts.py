"""What shards and reductions of a warm-up send to each other, for one module at a time.

Tensors are numpy arrays, which Ray's object store shares without copying.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ShardPart:
    """A shard's gradients of one module: either the summed gradient, or block statistics of it.

    Attributes:
        module: The name of the module.
        gradient: The summed gradient, (O, I) float32.
        weight: The weight, from one shard only; bfloat16 values are sent as int16.
        statistics: The block statistics of the summed gradient, (4, R, C) float64; or, in a warm-up
            without gradients, the sums of the absolute inputs, (1, I) float64.
        of_steps: The block statistics of single steps, (2, R, C) float64; None without them.
    """

    module: str
    gradient: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None
    statistics: NDArray[Any] | None = None
    of_steps: NDArray[Any] | None = None

    def plus(self, part: ShardPart) -> ShardPart:
        """The sum of two parts of one module, of which at most one has the weight."""
        assert self.module == part.module
        assert self.weight is None or part.weight is None
        return ShardPart(
            self.module,
            gradient=_sum(self.gradient, part.gradient),
            weight=part.weight if self.weight is None else self.weight,
            statistics=_sum(self.statistics, part.statistics),
            of_steps=_sum(self.of_steps, part.of_steps),
        )


def _sum(one: NDArray[Any] | None, other: NDArray[Any] | None) -> NDArray[Any] | None:
    if one is None or other is None:
        assert one is other
        return None
    total: NDArray[Any] = one + other
    return total


@dataclass(frozen=True)
class ModuleStatistics:
    """The entry of one module in the score table.

    Attributes:
        module: The name of the module.
        statistics: The block statistics, (4, R, C) float64, or (6, R, C) with those of steps.
    """

    module: str
    statistics: NDArray[Any]
