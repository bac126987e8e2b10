"""A model that is not trained, on the ranks of training: only its activations have gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.training.engine import import_deepspeed
from smt_ray.training.engine_settings import EngineSettings


class FrozenEngine:
    """A loss in evaluation mode without trained parameters, whose weights ZeRO-3 partitions.

    Other ZeRO stages partition nothing here, because there is neither an optimizer nor a gradient
    of a weight. Under stage 3 every method is a collective.

    Args:
        loss: The module whose forward maps a micro-batch to its loss. All its parameters are
            frozen.
        settings: See :class:`EngineSettings`.
        device: This rank's device.

    Attributes:
        is_partitioned: Whether ranks hold parts of the weights.
    """

    def __init__(self, loss: nn.Module, settings: EngineSettings, *, device: torch.device) -> None:
        self._device, self.is_partitioned = device, settings.zero_stage == 3
        self._loss = loss
        self._partition: Any = None
        if self.is_partitioned:
            deepspeed = import_deepspeed(device)
            config = settings.deepspeed_config(bucket=1)  # nothing is reduced
            engine, *_ = deepspeed.initialize(model=loss, config=config)
            # Hooks of the modules gather the weights. The engine's own backward needs an optimizer.
            self._loss, self._partition = engine.module, engine.optimizer
        else:
            self._loss.to(device)
        self._loss.eval()

    def backward(self, batch: MicroBatch) -> torch.Tensor:
        """Computes the loss of a micro-batch and its gradients; returns the loss."""
        loss: torch.Tensor = self._loss(batch.to(self._device))
        loss.backward()
        if self._partition is not None:
            self._partition.release_backward_leftovers()
        return loss.detach()

    @contextmanager
    def whole(self, module: nn.Module) -> Iterator[None]:
        """Within its block, the parameters of a module are whole."""
        if not self.is_partitioned:
            yield
            return
        zero = import_deepspeed(self._device).zero
        with zero.GatheredParameters(list(module.parameters(recurse=False))):
            yield
