"""The memory of one micro-batch besides parameters, measured by a dry run.

A dry run executes the real forward and backward passes on tensors that have shapes but no contents.
So the model, the layers of the method, the loss and autograd are counted as they are, and no
formula must be kept in step with them. The kernels are those of the CPU; CUDA's attention keeps the
same tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from smt_ray.data.batches import MicroBatch, is_packed
from smt_ray.data.packing import PackedRows
from smt_ray.planning.flops import Flops
from smt_ray.planning.layers import LayerStack
from smt_ray.planning.live_bytes import LiveBytes
from smt_ray.training.batching_mode import BatchingMode
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.recompute import recompute_activations

_UNMASKED = "smt_ray_unmasked"  # the name of our attention kernel among those of transformers


@dataclass(frozen=True)
class BatchShape:
    """The shape of a micro-batch.

    Attributes:
        num_rows: The number of rows, which have the same length.
        num_targets: The number of positions at which the head and the loss are computed.
        packed: Whether all rows are in one sequence.
    """

    num_rows: int
    row_length: int
    num_targets: int
    packed: bool

    @property
    def num_tokens(self) -> int:
        """The number of tokens of all rows."""
        return self.num_rows * self.row_length

    def fill(self) -> MicroBatch:
        """A micro-batch of this shape, filled with zeros."""
        zeros = torch.zeros(self.num_targets, dtype=torch.int64)
        weights = torch.zeros(self.num_targets)
        if not self.packed:
            ids = torch.zeros(self.num_rows, self.row_length, dtype=torch.int64)
            return MicroBatch(ids, zeros, zeros, weights)
        ids = torch.zeros(1, self.num_tokens, dtype=torch.int64)
        rows = PackedRows.whole([self.row_length] * self.num_rows)
        return MicroBatch(ids, zeros, zeros, weights, torch.zeros_like(ids), rows)


@dataclass(frozen=True)
class Needs:
    """What a micro-batch needs besides parameters and their gradients.

    Attributes:
        peak: The largest number of bytes in use.
        flops: The FLOPs of the forward and backward passes, with those of recomputed layers.
    """

    peak: int
    flops: int


class DryRun:
    """The forward and backward passes of a model without weights.

    Args:
        model: The model on the meta device, whose trained parameters require gradients. It cannot
            be used elsewhere afterwards.
        batching: How its rows are batched.

    Attributes:
        packed: Whether all rows of a micro-batch are in one sequence.
    """

    def __init__(self, model: nn.Module, batching: BatchingMode) -> None:
        self.packed = is_packed(batching.mode)
        self._mode = FakeTensorMode()
        with self._mode:
            _hollow(model)
        _let_attention_need_no_mask(model)
        self._model: Any = model
        self._layers = LayerStack(model)
        self._loss = SupervisedLoss(model, narrow=batching.narrows, max_logits=batching.max_logits)
        for parameter in model.parameters():
            if parameter.requires_grad:  # gradients are not activations
                parameter.register_post_accumulate_grad_hook(_drop_gradient)

    def measure(self, shape: BatchShape, *, training: bool, checkpointing: bool) -> Needs:
        """What a micro-batch needs; of layers that are alike, only a few are computed.

        Args:
            training: Whether dropout is active.
            checkpointing: Whether layers keep their inputs only and are computed again.
        """

        def step() -> None:
            self._loss(shape.fill()).backward()

        self._model.train(training)
        return self._extrapolated(step, checkpointing)

    def measure_forward(self, row_length: int) -> Needs:
        """What the forward pass of one row needs, with the logits of all of its positions."""

        def forward() -> None:
            ids = torch.zeros(1, row_length, dtype=torch.int64)
            with torch.no_grad():
                logits = self._model(input_ids=ids, use_cache=False).logits
                logits.float().logsumexp(-1)

        self._model.eval()
        self._model.config._attn_implementation = self._loss.attention
        return self._extrapolated(forward, checkpointing=False)

    def _extrapolated(self, work: Callable[[], None], checkpointing: bool) -> Needs:
        def measure() -> tuple[int, int]:
            with (
                self._recomputing(checkpointing),
                _experts_of_any_dtype(),
                _blocks_in_one_product(),
                self._mode,
                Flops() as flops,
                LiveBytes(earlier=False) as live,
            ):
                work()
            return live.peak, flops.total

        return Needs(*self._layers.extrapolated(measure))

    @property
    def can_recompute(self) -> bool:
        """Whether the model's family supports activation checkpointing."""
        return bool(self._model.supports_gradient_checkpointing)

    @contextmanager
    def _recomputing(self, wanted: bool) -> Iterator[None]:
        if not wanted:
            yield
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about a name that all of 5.x accepts
            recompute_activations(self._model)
            yield
            self._model.gradient_checkpointing_disable()


@contextmanager
def _experts_of_any_dtype() -> Iterator[None]:
    """Makes experts use transformers' own grouped product if their dtype is not bfloat16.

    On tensors without contents, torch's product knows no other dtype.
    """
    from transformers.integrations import moe

    can_use = moe._can_use_grouped_mm
    moe._can_use_grouped_mm = lambda _, weight, *__: weight.dtype == torch.bfloat16
    try:
        yield
    finally:
        moe._can_use_grouped_mm = can_use


@contextmanager
def _blocks_in_one_product() -> Iterator[None]:
    """Computes the gradients of all blocks of a weight by one product, as they have no contents.

    It needs the same bytes and counts the same FLOPs as one product for each block.
    """
    from smt_ray.smt.layers import layout

    by_block = layout.block_products
    layout.block_products = _products_of_blocks
    try:
        yield
    finally:
        layout.block_products = by_block


def _products_of_blocks(
    rows: Sequence[int],
    starts: Sequence[int],
    block_size: int,
    grad_y: Tensor,
    kept: Tensor,
    transposed: bool,
) -> Tensor:
    """The same as :func:`smt_ray.smt.layers.layout.block_products`, without contents."""
    number = len(starts)
    gradients = grad_y.new_empty(number, block_size, block_size)
    outputs, inputs = grad_y[:, :block_size].t(), kept[:, :block_size]
    torch.bmm(outputs.expand(number, -1, -1), inputs.expand(number, -1, -1), out=gradients)
    return gradients


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _hollow(model: nn.Module) -> None:
    """Replaces meta tensors by fake tensors on the CPU; tied tensors stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        held: tuple[MutableMapping[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    made[id(tensor)] = (
                        nn.Parameter(empty, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else empty
                    )
                tensors[name] = made[id(tensor)]


def _let_attention_need_no_mask(model: nn.Module) -> None:
    """Makes padded rows use an attention kernel without a mask, which they do not need.

    Transformers would look at the positions to decide that, but fake tensors have no values, and it
    would make a mask to be safe.
    """
    from transformers import AttentionInterface

    config: Any = model.config
    if config._attn_implementation != "eager":
        AttentionInterface.register(_UNMASKED, _causal)
        config._attn_implementation = _UNMASKED


def _causal(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, None, **kwargs)
    return result
