"""Logits of some positions at a time, so that those of a long row are never held together.

With 128,000 tokens in the vocabulary, the logits of 32,000 positions are 16 GiB in float32. So
the loss is summed over chunks of positions. If the head is frozen, the gradient of a chunk's hidden
states is computed right after its loss, while its logits exist. Otherwise the backward computes
the logits again, so that the gradients of the head take the usual way through the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 2**25
"""The number of logits that are computed at once: 128 MiB in float32."""

Loss = Callable[[Tensor, slice], Tensor]
"""A function of logits (P, V) and of the positions that they belong to."""


class Logits:
    """What a causal language model computes from the hidden states that its head gets.

    The model's own forward computes it, with a decoder that only returns the hidden states. So
    soft-capping and scaling of logits are as the model has them. Whether this is exact for a model
    is found by a probe (:mod:`smt_ray.probe`).

    Args:
        model: A transformers causal language model.
    """

    def __init__(self, model: nn.Module) -> None:
        causal_lm: Any = model
        self._model = causal_lm
        self._vocabulary = int(causal_lm.config.get_text_config().vocab_size)

    def num_chunks(self, num_positions: int, max_logits: int) -> int:
        """The number of chunks in which the logits of some positions are computed."""
        return -(-num_positions // self._chunk(max_logits))

    def sum_over_chunks(self, hidden: Tensor, loss: Loss, max_logits: int) -> Tensor:
        """The sum of a loss over chunks of positions, whose logits are not kept.

        Args:
            hidden: The hidden states that the head gets, (1, P, H).
            loss: See :data:`Loss`.
            max_logits: The largest number of logits of a chunk; a chunk has one position at least.
        """
        chunks = list(self._chunks(hidden.shape[1], max_logits))

        def loss_of(part: Tensor, chunk: slice) -> Tensor:
            return loss(self(part)[0], chunk)

        if self._is_frozen:
            apply: Any = _GradientsAhead.apply
            total: Tensor = apply(hidden, loss_of, chunks)
            return total
        parts = [checkpoint(loss_of, hidden[:, c], c, use_reentrant=False) for c in chunks]
        return torch.stack(parts).sum()

    @property
    def _is_frozen(self) -> bool:
        """Whether the head is frozen and whole: ZeRO-3 releases weights between passes."""
        head = self._model.get_output_embeddings()
        return not any(p.requires_grad or hasattr(p, "ds_id") for p in head.parameters())

    def __call__(self, hidden: Tensor) -> Tensor:
        """The logits (1, P, V) of hidden states (1, P, H)."""
        ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        forward = type(self._model).forward
        logits: Tensor = forward(
            _Headed(self._model, hidden), input_ids=ids, use_cache=False
        ).logits
        return logits

    def _chunks(self, num_positions: int, max_logits: int) -> Iterator[slice]:
        size = self._chunk(max_logits)
        return (slice(start, start + size) for start in range(0, num_positions, size))

    def _chunk(self, max_logits: int) -> int:
        return max(1, max_logits // self._vocabulary)


class _GradientsAhead(torch.autograd.Function):
    """The sum of a loss over chunks, whose gradient (1, P, H) is computed with it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, loss_of: Callable[[Tensor, slice], Tensor], chunks: list[slice]
    ) -> Tensor:
        grads: list[Tensor] = []
        total = torch.zeros((), device=hidden.device)
        for chunk in chunks:
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                part = hidden[:, chunk].detach().requires_grad_(ctx.needs_input_grad[0])
                loss = loss_of(part, chunk)
            total += loss.detach()
            if ctx.needs_input_grad[0]:
                grads += torch.autograd.grad(loss, part)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.cat(ctx.saved_tensors, 1)
        return grads * outer[0].to(grads.dtype), None, None


class _Headed:
    """A model whose decoder returns given hidden states; everything else is the model's own."""

    def __init__(self, model: Any, hidden: Tensor) -> None:
        self._model, self._hidden = model, hidden

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        return _Decoder(found, self._hidden) if name == self._model.base_model_prefix else found


class _Decoder:
    """A decoder that does nothing but return hidden states."""

    def __init__(self, decoder: Any, hidden: Tensor) -> None:
        self._decoder, self._hidden = decoder, hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, *_: Any, **__: Any) -> _Output:
        return _Output(self._hidden)


class _Output:
    """A decoder's output, which has nothing but the last hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]
