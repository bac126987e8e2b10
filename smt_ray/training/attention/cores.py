"""Attention of a batch of sequences with the log-sum-exp of its scores, forward and backward.

All functions take queries (R, H, n, D), keys (R, K, m, D) and values (R, K, m, E), where K divides
H, and compute softmax(scale * q k^T + mask) v. The log-sum-exp (R, H, n) is that of each query's
scores. It is what merges parts of a query's keys: with the log-sum-exp and the result over all
parts, the backward of one part gives that part's share of the gradients exactly.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

_QUERIES = 512  # the number of queries whose scores the dense form holds at once


class Masking(NamedTuple):
    """What the queries see of the keys.

    Attributes:
        causal: Query i sees keys 0 to i.
        bias: What is added to the scores, (n, m), in the dtype of the queries; None for nothing.
    """

    causal: bool = False
    bias: Tensor | None = None


class Attended(NamedTuple):
    """What a backward needs of a forward."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    lse: Tensor


class Core(Protocol):
    """A forward and a backward that belong together."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, masking: Masking, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The result (R, H, n, E), and the log-sum-exp in float32 or float64."""
        ...

    def backward(
        self, grad: Tensor, attended: Attended, masking: Masking, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the queries, keys and values, from the gradient of the result.

        The result and the log-sum-exp may be those over more keys than are given.
        """
        ...


class FlashCpu:
    """PyTorch's flash attention for the CPU, which never holds all scores."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, masking: Masking, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Core`."""
        output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, masking.causal, attn_mask=masking.bias, scale=scale
        )
        return output, lse

    def backward(
        self, grad: Tensor, attended: Attended, masking: Masking, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Core`."""
        grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad,
            *attended,
            0.0,
            masking.causal,
            attn_mask=masking.bias,
            scale=scale,
        )
        return grads[0], grads[1], grads[2]


class Dense:
    """Plain products, for devices, dtypes and head sizes without a kernel, and as the reference.

    It holds the scores of 512 queries at once.
    """

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, masking: Masking, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Core`."""
        groups = query.shape[1] // key.shape[1]
        value = value.repeat_interleave(groups, 1)
        outputs, sums = [], []
        for start in range(0, query.shape[2], _QUERIES):
            scores = _scores(query, key, masking, scale, start)
            sums.append(scores.logsumexp(-1))
            outputs.append(scores.softmax(-1).to(value.dtype) @ value)
        return torch.cat(outputs, 2), torch.cat(sums, 2)

    def backward(
        self, grad: Tensor, attended: Attended, masking: Masking, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Core`."""
        query, key, value, output, lse = attended
        heads, groups = key.shape[1], query.shape[1] // key.shape[1]
        values = value.repeat_interleave(groups, 1)
        keys = key.repeat_interleave(groups, 1)
        grad_queries, grad_keys, grad_values = [], torch.zeros_like(keys), torch.zeros_like(values)
        for start in range(0, query.shape[2], _QUERIES):
            chunk = slice(start, start + _QUERIES)
            scores = _scores(query, key, masking, scale, start)
            weights = (scores - lse[:, :, chunk, None]).exp()
            grads = grad[:, :, chunk]
            products = (grads * output[:, :, chunk]).sum(-1, dtype=weights.dtype)
            inner = weights * ((grads @ values.mT).to(weights.dtype) - products[..., None]) * scale
            grad_values += weights.to(grads.dtype).mT @ grads
            grad_queries.append(inner.to(keys.dtype) @ keys)
            grad_keys += inner.to(query.dtype).mT @ query[:, :, chunk]
        return (
            torch.cat(grad_queries, 2),
            grad_keys.unflatten(1, (heads, groups)).sum(2),
            grad_values.unflatten(1, (heads, groups)).sum(2),
        )


def _scores(query: Tensor, key: Tensor, masking: Masking, scale: float, start: int) -> Tensor:
    """The scores of queries from ``start`` on, in at least float32."""
    chunk = query[:, :, start : start + _QUERIES]
    groups = query.shape[1] // key.shape[1]
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (chunk @ key.repeat_interleave(groups, 1).mT).to(wide) * scale
    if masking.bias is not None:
        scores = scores + masking.bias[start : start + _QUERIES]
    if masking.causal:
        places = torch.arange(key.shape[2], device=query.device)
        own = torch.arange(start, start + chunk.shape[2], device=query.device)
        scores = scores.masked_fill(places > own[:, None], -torch.inf)
    return scores


def choose_core(query: Tensor, value: Tensor) -> Core:
    """The core for the device, the dtype and the head sizes of some queries and values."""
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        return FlashCpu()
    return Dense()
