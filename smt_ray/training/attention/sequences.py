"""A part of a pack, computed as a batch of sequences of equal length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smt_ray.training.attention.cores import Core, Masking
from smt_ray.training.attention.parts import Part


@dataclass(frozen=True)
class Sequences:
    """A part, and the core that computes it.

    All tensors of a pack have their tokens first: queries (N, H, D), keys (N, K, D), values
    (N, K, E), results (N, H, E), log-sum-exps (N, H).
    """

    part: Part
    core: Core

    @property
    def adds(self) -> bool:
        """See :class:`Part`."""
        return self.part.adds

    def take(self, tokens: Tensor) -> Tensor:
        """A view of the part's queries, (R, n, ...), of a tensor of all tokens, (N, ...)."""
        start, stop = self.part.queries
        return self._whole(tokens)[:, start:stop]

    def batch(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part's queries (R, H, n, D), keys (R, K, m, D) and values (R, K, m, E)."""
        return self.take(query).transpose(1, 2), self._keys(key), self._keys(value)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The results and log-sum-exps of the part's queries, as :meth:`take` shapes them."""
        batch = self.batch(query, key, value)
        output, lse = self.core.forward(*batch, self.masking(query), scale)
        return output.transpose(1, 2), lse.transpose(1, 2)

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        scale: float,
        sums: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Adds the part's gradients of the queries, keys and values to sums of their shapes."""
        grads = self.core.backward(
            self.take(grad).transpose(1, 2),
            *self.batch(query, key, value),
            self.take(output).transpose(1, 2),
            self.take(lse).transpose(1, 2),
            self.masking(query),
            scale,
        )
        self.take(sums[0]).add_(grads[0].transpose(1, 2))
        self._add_keys(sums[1], grads[1])
        self._add_keys(sums[2], grads[2])

    def masking(self, query: Tensor) -> Masking:
        """What the part's queries see of its keys; only the dtype and device of queries count."""
        part = self.part
        if part.band is None:
            return Masking(part.causal)
        num_keys = sum(span.length for span in part.before) + part.own.length
        first = torch.arange(part.queries.length, device=query.device)[:, None] + part.band.start
        key = torch.arange(num_keys, device=query.device)
        seen = (key >= first) & (key < first + part.band.length)
        bias = torch.zeros(seen.shape, dtype=query.dtype, device=query.device)
        return Masking(bias=bias.masked_fill_(~seen, -torch.inf))

    def _whole(self, tokens: Tensor) -> Tensor:
        part = self.part
        stop = part.first + part.num_sequences * part.length
        shape = (part.num_sequences, part.length, *tokens.shape[1:])
        return tokens[part.first : stop].view(shape)

    def _keys(self, tokens: Tensor) -> Tensor:
        """(N, K, D) -> (R, K, m, D): the keys before, then each sequence's own."""
        part, start, stop = self.part, *self.part.own
        pieces = [
            tokens[slice(*span)].expand(part.num_sequences, -1, -1, -1) for span in part.before
        ]
        if part.own.length:
            pieces.append(self._whole(tokens)[:, start:stop])
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)).transpose(1, 2)

    def _add_keys(self, total: Tensor, grads: Tensor) -> None:
        """Adds gradients (R, K, m, D) of the keys to a sum (N, K, D)."""
        part, start, stop = self.part, *self.part.own
        by_token = grads.transpose(1, 2)
        for span in part.before:
            total[slice(*span)].add_(by_token[:, : span.length].sum(0, dtype=total.dtype))
            by_token = by_token[:, span.length :]
        if part.own.length:
            self._whole(total)[:, start:stop].add_(by_token)
