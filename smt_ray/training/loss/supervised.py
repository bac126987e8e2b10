"""The loss of a micro-batch: a weighted sum over its targets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.training.attention import packed
from smt_ray.training.loss import last_layer
from smt_ray.training.loss.logits import Logits


class SupervisedLoss(nn.Module):
    """A causal language model as a function from a micro-batch to its loss.

    With a large vocabulary the head costs as much as several layers, and most positions have no
    target. So the head computes logits only for positions that predict a target: either the last
    layer computes no other hidden states (:mod:`smt_ray.training.loss.last_layer`), or a hook
    before the head picks those. The model itself still transforms its logits (soft-capping,
    scaling).

    Args:
        model: A transformers causal language model with the method's layers in place.
        narrow: Whether the last layer computes nothing but supervised positions, which must be
            exact for the model.
        max_logits: The largest number of logits that are held at once, which must be exact for the
            model (:mod:`smt_ray.training.loss.logits`); None for all.

    Attributes:
        model: As given.
        attention: The attention implementation that the model was loaded with.
    """

    def __init__(self, model: nn.Module, *, narrow: bool, max_logits: int | None = None) -> None:
        super().__init__()
        self.model = model
        causal_lm: Any = model
        self._config = causal_lm.config
        self.attention: str = self._config._attn_implementation
        self._logits, self._max_logits = Logits(model), max_logits
        self._batch: MicroBatch | None = None
        self._hidden: torch.Tensor | None = None
        self._narrowed = narrow
        head = causal_lm.get_output_embeddings()
        self._hooks = last_layer.narrow_last_layer(model) if narrow else []
        self._hooks.append(head.register_forward_pre_hook(self._before_head))
        packed.register()

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The sum of weight x cross-entropy over the targets: a float32 scalar."""

        def loss(logits: torch.Tensor, chunk: slice) -> torch.Tensor:
            targets, weights = batch.targets[chunk], batch.weights[chunk]
            return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()

        self._batch = batch
        inputs = self._inputs(batch)
        try:
            logits = self.model(**inputs, use_cache=False).logits  # (1, P, V)
            hidden = self._hidden
        finally:
            self._batch = self._hidden = None
        if hidden is None:
            return loss(logits[0], slice(None))
        assert self._max_logits is not None
        return self._logits.sum_over_chunks(hidden, loss, self._max_logits)

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

    def _before_head(self, _head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Gives the head the supervised positions, or one of them if it gets chunks afterwards."""
        if self._batch is None:
            return None
        hidden, *others = args
        if not self._narrowed:
            hidden = last_layer.pick(hidden, self._batch.positions)
        if self._needs_chunks(len(self._batch.positions)):
            self._hidden = hidden
            hidden = hidden[:, :1]
        return (hidden, *others)

    def _needs_chunks(self, num_positions: int) -> bool:
        limit = self._max_logits
        return limit is not None and self._logits.num_chunks(num_positions, limit) > 1
