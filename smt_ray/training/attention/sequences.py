"""A part of a pack, computed as a batch of sequences of equal length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cachetools import LRUCache, cached
from torch import Tensor

from smt_ray.training.attention.cores import Attended, Core, Masking
from smt_ray.training.attention.parts import Part, Span

_KEPT_BYTES = 2**25  # of masks, which the layers share


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

    @property
    def is_first(self) -> bool:
        """See :class:`Part`."""
        return self.part.is_first

    @property
    def shares_keys(self) -> bool:
        """Whether other parts may see the same keys."""
        return bool(self.part.before) or not self.part.is_first

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
        self, grad: Tensor, attended: Attended, scale: float, sums: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Adds the part's gradients of the queries, keys and values to sums of their shapes.

        The first part of some queries or own keys writes theirs instead.
        """
        query, key, value, output, lse = attended
        batch = Attended(
            *self.batch(query, key, value),
            self.take(output).transpose(1, 2),
            self.take(lse).transpose(1, 2),
        )
        gradient = self.take(grad).transpose(1, 2)
        grads = self.core.backward(gradient, batch, self.masking(query), scale)
        _add(self.take(sums[0]), grads[0].transpose(1, 2), self.is_first)
        self._add_keys(sums[1], grads[1])
        self._add_keys(sums[2], grads[2])

    def masking(self, query: Tensor) -> Masking:
        """What the part's queries see of its keys; only the dtype and device of queries count."""
        part = self.part
        if part.band is None:
            return Masking(part.causal)
        num_keys = sum(span.length for span in part.before) + part.own.length
        return Masking(bias=_band((part.queries.length, num_keys), part.band, query))

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
            _add(self._whole(total)[:, start:stop], by_token, self.is_first)


def _add(total: Tensor, value: Tensor, is_first: bool) -> None:
    if is_first:
        total.copy_(value)
    else:
        total.add_(value)


def _mode_of(tensor: Tensor) -> object:
    """What keeps the fake tensors of a dry run apart from each other and from real ones."""
    return getattr(tensor, "fake_mode", None)


@cached(
    LRUCache(_KEPT_BYTES, getsizeof=lambda bias: bias.nbytes),
    key=lambda size, band, like: (size, band, like.dtype, like.device, _mode_of(like)),
)
def _band(size: tuple[int, int], band: Span, like: Tensor) -> Tensor:
    """The mask of a band, (n, m) in the dtype and on the device of a tensor: 0 or -infinity."""
    first = torch.arange(size[0], device=like.device)[:, None] + band.start
    key = torch.arange(size[1], device=like.device)
    seen = (key >= first) & (key < first + band.length)
    bias = torch.zeros(size, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(~seen, -torch.inf)
