"""The loss of a micro-batch: a weighted sum over its targets, the head run on those alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from smt_ray.data.batches import MicroBatch


class SupervisedLoss(nn.Module):
    """A causal language model as a function from a micro-batch to its loss.

    The head costs as much as several layers where the vocabulary is large, and most positions have
    no target. A hook before the head picks the hidden states that predict one; whatever the model
    does to its logits afterwards (soft-capping, scaling) stays the model's.

    Args:
        model: A transformers causal language model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._positions: torch.Tensor | None = None
        head: nn.Module = model.get_output_embeddings()
        head.register_forward_pre_hook(self._pick)

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of weight x cross-entropy over the targets: a float32 scalar."""
        self._positions = batch.positions
        try:
            logits = self.model(input_ids=batch.input_ids, use_cache=False).logits  # (1, P, V)
        finally:
            self._positions = None
        token_losses = F.cross_entropy(logits[0].float(), batch.targets, reduction="none")
        return (token_losses * batch.weights).sum()

    def _pick(self, _head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        hidden = args[0]  # (B, S, H)
        return (hidden.reshape(1, -1, hidden.shape[-1])[:, self._positions], *args[1:])
