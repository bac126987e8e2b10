"""The loss of a micro-batch: a weighted sum over its targets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.training import last_layer
from smt_ray.training.attention import packed


class SupervisedLoss(nn.Module):
    """A causal language model as a function from a micro-batch to its loss.

    With a large vocabulary the head costs as much as several layers, and most positions have no
    target. So the head computes logits only for positions that predict a target: either the last
    layer computes no other hidden states (:mod:`smt_ray.training.last_layer`), or a hook before the
    head picks those. The model itself still transforms its logits (soft-capping, scaling).

    Args:
        model: A transformers causal language model with the method's layers in place.
        narrow: Whether the last layer computes nothing but supervised positions, which must be
            exact for the model.

    Attributes:
        model: As given.
        attention: The attention implementation that the model was loaded with.
    """

    def __init__(self, model: nn.Module, *, narrow: bool) -> None:
        super().__init__()
        self.model = model
        causal_lm: Any = model
        self._config = causal_lm.config
        self.attention: str = self._config._attn_implementation
        self._positions: torch.Tensor | None = None
        self._narrowed = narrow
        if narrow:
            self._hooks = last_layer.narrow_last_layer(model)
        else:
            head = causal_lm.get_output_embeddings()
            self._hooks = [head.register_forward_pre_hook(self._pick)]
        packed.register()

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of weight x cross-entropy over the targets: a float32 scalar."""
        self._positions = batch.positions
        inputs = self._inputs(batch)
        try:
            logits = self.model(**inputs, use_cache=False).logits  # (1, P, V)
        finally:
            self._positions = None
        token_losses = F.cross_entropy(logits[0].float(), batch.targets, reduction="none")
        return (token_losses * batch.weights).sum()

    def detach_from_model(self) -> None:
        """Removes the hooks and restores the attention implementation."""
        for hook in self._hooks:
            hook.remove()
        self._config._attn_implementation = self.attention

    def _inputs(self, batch: MicroBatch) -> dict[str, Any]:
        # The kernel stays set until the next forward, because checkpointed layers run once more
        # during backward.
        is_pack = batch.rows is not None
        self._config._attn_implementation = packed.KERNEL if is_pack else self.attention
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        if self._narrowed:
            inputs[last_layer.KEYWORD] = batch.positions
        if is_pack:
            inputs |= {"position_ids": batch.position_ids, packed.KEYWORD: batch.rows}
        return inputs

    def _pick(self, _head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None:
            return None
        return (last_layer.pick(args[0], self._positions), *args[1:])
