"""Gradient sums of a warm-up that trains: taken on every rank, added over ranks when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smt_ray.smt.scores import block_statistics


class GradientSums:
    """Signed fp32 sums of the eligible weights' gradients over the steps of a training.

    A hook on each weight adds the gradient of every micro-batch as backward makes it, whole: before
    the engine rounds, partitions or clips it. A step's gradient is the mean over ranks of their
    sums over micro-batches; as the sum over steps is linear in these, ranks keep theirs apart and
    add them in :meth:`export`, rather than exchange every weight's gradient at every step.

    Every rank makes one, before the engine, with torch.distributed initialised.

    Args:
        modules: Eligible linears by name, their weights whole.
        device: Where sums are kept: ``host`` for the CPU, ``device`` for beside the weights.
        exchange_on: The device that ranks exchange tensors on.
    """

    def __init__(
        self, modules: Mapping[str, nn.Linear], device: str, exchange_on: torch.device
    ) -> None:
        self._exchange_on, self._share = exchange_on, 1 / dist.get_world_size()
        place = torch.device("cpu") if device == "host" else exchange_on
        self._sums = {
            name: torch.zeros(module.weight.shape, dtype=torch.float32, device=place)
            for name, module in modules.items()
        }
        for name, module in modules.items():
            module.weight.register_hook(partial(self._add, name))

    def export(self, *, keep: bool) -> dict[str, Tensor]:
        """The sums over all ranks so far, by module: (O, I) float32 on the CPU.

        Every rank calls it; afterwards rank 0 has the sums and the others begin anew.

        Args:
            keep: Whether this rank wants them, which rank 0 alone may.
        """
        exported: dict[str, Tensor] = {}
        for name, own in self._sums.items():
            total = own.to(self._exchange_on, copy=True)
            dist.reduce(total, dst=0)
            if dist.get_rank() == 0:
                own.copy_(total)
            else:
                own.zero_()
            if keep:
                exported[name] = total.cpu()
        return exported

    def restore(self, sums: Mapping[str, Tensor]) -> None:
        """Goes on from exported sums, which every rank is given."""
        for name, own in self._sums.items():
            own.copy_(sums[name]) if dist.get_rank() == 0 else own.zero_()

    def _add(self, name: str, gradient: Tensor) -> None:
        own = self._sums[name]
        own.add_(gradient.to(own.device), alpha=self._share)


def make_statistics(
    sums: Mapping[str, Tensor], parameters: Mapping[str, Tensor], block_size: int
) -> dict[str, Tensor]:
    """The score table's statistics, of sums and the weights that training goes on from.

    Args:
        sums: Module name -> summed gradient, (O, I).
        parameters: Parameter name -> value, the modules' weights among them.
        block_size: The table's.
    """
    return {
        name: block_statistics(total, parameters[f"{name}.weight"], block_size)
        for name, total in sums.items()
    }
