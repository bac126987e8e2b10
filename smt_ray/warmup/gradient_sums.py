"""Gradient sums of a trained warm-up: every rank keeps its own, and export adds them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smt_ray.smt.linears import as_dense, is_transposed, linear_shape
from smt_ray.smt.scores import block_statistics


class GradientSums:
    """Signed fp32 sums of the eligible weights' gradients over the steps of a training.

    A hook on each weight adds the gradient of every micro-batch, before the engine rounds,
    partitions or clips it. The gradient of a step is the mean over ranks of their sums over
    micro-batches. The sum over steps is linear in these. So ranks keep separate sums and add them
    in :meth:`export`; they need not exchange every weight's gradient at every step.

    Every rank makes one before the engine is made; torch.distributed must be initialised.

    Args:
        modules: The eligible linears by name; their weights are whole.
        device: The place of the sums: ``host`` for the CPU, ``device`` for ``exchange_on``.
        exchange_on: The device that ranks exchange tensors on.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], device: str, exchange_on: torch.device
    ) -> None:
        self._exchange_on, self._share = exchange_on, 1 / dist.get_world_size()
        place = torch.device("cpu") if device == "host" else exchange_on
        self._transposed = {name: is_transposed(module) for name, module in modules.items()}
        self._sums: dict[str, Tensor] = {}
        for name, module in modules.items():
            self._sums[name] = torch.zeros(linear_shape(module), device=place)
            module.get_parameter("weight").register_hook(partial(self._add, name))

    def export(self, *, keep: bool) -> dict[str, Tensor]:
        """The sums over all ranks, by module, (O, I) float32 on the CPU.

        Every rank calls it. Afterwards rank 0 holds the total, and the sums of the others are zero.

        Args:
            keep: Whether this rank needs the sums. They are complete on rank 0 only.
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
        """Restores exported sums; every rank gets the same and calls it."""
        for name, own in self._sums.items():
            own.copy_(sums[name]) if dist.get_rank() == 0 else own.zero_()

    def statistics(
        self, sums: Mapping[str, Tensor], parameters: Mapping[str, Tensor], block_size: int
    ) -> dict[str, Tensor]:
        """The statistics of the score table, from exported sums and the weights after the warm-up.

        Args:
            sums: Module -> summed gradient, (O, I).
            parameters: Parameter -> value, with the weight of every module as it is stored.
            block_size: The block size of the table.
        """
        found = {}
        for name, total in sums.items():
            weight = as_dense(parameters[f"{name}.weight"], self._transposed[name])
            found[name] = block_statistics(total, weight, block_size)
        return found

    def _add(self, name: str, gradient: Tensor) -> None:
        own = self._sums[name]
        gradient = as_dense(gradient, self._transposed[name])
        own.add_(gradient.to(own.device), alpha=self._share)
