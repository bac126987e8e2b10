"""Attention over packed rows: each row attends to its own tokens, and only those are computed.

transformers calls an attention function that is registered by name. This one gets the layout of the
rows as a further keyword of the model's forward. All other layers work as usual.

What is kept for the backward pass is linear in the tokens: the queries, keys, values and results,
and one number for each query and head. Where a query's keys lie in several parts, the results of
the parts are merged by the log-sum-exps of their scores, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smt_ray.data.packing import PackedRows
from smt_ray.training.attention.cores import Attended, choose_core
from smt_ray.training.attention.parts import make_parts
from smt_ray.training.attention.sequences import Sequences
from smt_ray.training.attention.varlen import has_varlen, make_varlen

KERNEL = "smt_ray_packed"
KEYWORD = "packed_rows"  # a keyword of the model's forward, which its attention layers get too

_UNKNOWN = ("softcap", "s_aux", "position_bias")  # keywords that this kernel does not implement


def register() -> None:
    """Registers the kernel with transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(KERNEL, packed_attention)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        module: The attention layer.
        query: The queries, (1, H, N, D), of N packed tokens.
        key: The keys, (1, K, N, D); K divides H.
        value: The values, (1, K, N, E).
        attention_mask: Always None; the layout of the rows replaces it.
        scaling: The factor of the scores; None for 1 / sqrt(D).
        dropout: The dropout of the attention weights; rows then share no prefix.
        sliding_window: The number of positions that a query attends to, itself included; None for
            all.
        **kwargs: The :class:`PackedRows` as ``packed_rows``, and other keywords of the model.

    Returns:
        The result, (1, N, H, E), and None in the place of attention weights.
    """
    assert KEYWORD in kwargs, "the model is set to packed rows: call its SupervisedLoss"
    rows: PackedRows = kwargs[KEYWORD]
    assert attention_mask is None, "packed rows have no mask"
    assert all(kwargs.get(name) is None for name in _UNKNOWN), "see packing_obstacle"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    by_token = (query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
    if dropout:
        return _with_dropout(*by_token, rows, sliding_window, scale, dropout)[None], None
    parts = make_kernels(query, value, rows, sliding_window)
    apply: Any = _PackedAttention.apply
    result: Tensor = apply(*by_token, parts, scale)
    return result[None], None


class PartKernel(Protocol):
    """What computes a part of a pack; see :class:`Sequences`."""

    @property
    def adds(self) -> bool: ...  # noqa: D102

    @property
    def is_first(self) -> bool: ...  # noqa: D102

    @property
    def shares_keys(self) -> bool: ...  # noqa: D102

    def take(self, tokens: Tensor) -> Tensor: ...  # noqa: D102

    def forward(  # noqa: D102
        self, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]: ...

    def backward(  # noqa: D102
        self, grad: Tensor, attended: Attended, scale: float, sums: tuple[Tensor, Tensor, Tensor]
    ) -> None: ...


def make_kernels(
    query: Tensor, value: Tensor, rows: PackedRows, window: int | None
) -> Sequence[PartKernel]:
    """The kernels that compute a pack together: few with varlen attention, else one a part.

    Args:
        query: The queries, of which the device, the dtype and the head size count.
        value: The values, of which the head size counts.
        rows: The layout of the pack.
        window: The number of positions that a query attends to; None for all.
    """
    if has_varlen(query, value):
        return make_varlen(rows, window, query.device)
    core = choose_core(query, value)
    return [Sequences(part, core) for part in make_parts(rows, window)]


class _PackedAttention(torch.autograd.Function):
    """Attention of all tokens of a pack: (N, H, D), (N, K, D), (N, K, E) -> (N, H, E)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernels: Sequence[PartKernel],
        scale: float,
    ) -> Tensor:
        output = query.new_empty(*query.shape[:2], value.shape[2])
        wide = torch.promote_types(query.dtype, torch.float32)
        lse = query.new_empty(query.shape[:2], dtype=wide)
        for kernel in kernels:
            result, sums = kernel.forward(query, key, value, scale)
            if kernel.adds:
                _merge(kernel.take(output), kernel.take(lse), result, sums)
            else:
                kernel.take(output).copy_(result)
                kernel.take(lse).copy_(sums)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.kernels, ctx.scale = kernels, scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        attended = Attended(*ctx.saved_tensors)
        query, key, value = attended[:3]
        # Several parts may add to the gradient of a key, so that it is summed in float32.
        are_shared = any(kernel.shares_keys for kernel in ctx.kernels)
        wide = torch.promote_types(query.dtype, torch.float32) if are_shared else query.dtype
        # Where first parts write their gradients, there is nothing to add them to.
        are_written = all(kernel.is_first or kernel.adds for kernel in ctx.kernels)
        make = torch.empty_like if are_written else torch.zeros_like
        sums = make(query), make(key, dtype=wide), make(value, dtype=wide)
        for kernel in ctx.kernels:
            kernel.backward(grads[0], attended, ctx.scale, sums)
        return sums[0], sums[1].to(key.dtype), sums[2].to(value.dtype), None, None


def _merge(output: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Writes the results over both parts of the keys in the place of those over one part.

    Args:
        output: The results over one part, (..., H, E).
        lse: The log-sum-exps of its scores, (..., H).
        more: The results over the other part.
        more_lse: The log-sum-exps of its scores.
    """
    total = torch.logaddexp(lse, more_lse)
    first, second = (lse - total).exp_(), (more_lse - total).exp_()
    output.copy_(output * first[..., None] + more * second[..., None])
    lse.copy_(total)


def _with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: PackedRows,
    window: int | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """Attention whose weights are dropped at random. Here, each query belongs to one part."""
    output, core = query.new_empty(*query.shape[:2], value.shape[2]), choose_core(query, value)
    for part in make_parts(rows, window):
        assert not part.adds, "rows with dropout share no prefix"
        sequences = Sequences(part, core)
        masking = sequences.masking(query)
        result = F.scaled_dot_product_attention(
            *sequences.batch(query, key, value),
            attn_mask=masking.bias,
            dropout_p=dropout,
            is_causal=masking.causal,
            scale=scale,
            enable_gqa=True,
        )
        sequences.take(output).copy_(result.transpose(1, 2))
    return output
