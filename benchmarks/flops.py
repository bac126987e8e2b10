"""The arithmetic that a step cannot do without, in FLOPs (a multiply and an add are two).

Counted are: each linear's forward; its input gradient, where something trained comes before it; the
gradient of the weight elements that are trained; attention over the pairs of positions that the
mask allows; the head on supervised positions alone. Not counted are element-wise work, norms and
recomputation. Read for Llama-like decoders, whose projections have the names below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.data.packing import PackedRows
from smt_ray.smt.linear import SparseLinear

# Projections in the order in which a layer uses them; those of one stage share their input.
_STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
_STAGE = {name: stage for stage, names in enumerate(_STAGES) for name in names}


@dataclass(frozen=True)
class Linear:
    """One product of the model.

    Attributes:
        out_features: O.
        in_features: I.
        trained: Elements of its weight whose gradient is needed.
        input_gradient: Whether the gradient of its input is needed.
    """

    out_features: int
    in_features: int
    trained: int
    input_gradient: bool

    def flops(self, num_tokens: int) -> int:
        """Of forward and backward on (num_tokens, I)."""
        dense = self.out_features * self.in_features
        return 2 * num_tokens * (dense * (1 + self.input_gradient) + self.trained)


@dataclass(frozen=True)
class Decoder:
    """A model that is prepared for training.

    Attributes:
        linears: Those of the layers.
        head: The output head.
        attention_width: Heads x width of a head.
        attention_backward: For each layer, how many of the four products over pairs of its
            attention's backward are needed.
        once_per_step: FLOPs that do not depend on tokens (DoRA's norms of W + BA).
    """

    linears: tuple[Linear, ...]
    head: Linear
    attention_width: int
    attention_backward: tuple[int, ...]
    once_per_step: int = 0


@dataclass(frozen=True)
class Work:
    """What a micro-batch asks of a decoder.

    Attributes:
        num_tokens: Positions that the layers run on.
        num_pairs: (query, key) pairs that the mask allows.
        num_targets: Positions that the head runs on.
    """

    num_tokens: int
    num_pairs: int
    num_targets: int


def allowed_pairs(rows: PackedRows) -> int:
    """Causal (query, key) pairs of packed rows."""
    return sum(s.length * s.start + s.length * (s.length + 1) // 2 for s in rows.segments)


def step_flops(decoder: Decoder, works: Sequence[Work]) -> int:
    """What a step of several micro-batches needs."""
    # Forward is two products over the pairs: scores, and the mean of the values.
    products = sum(2 + backward for backward in decoder.attention_backward)
    total = decoder.once_per_step
    for work in works:
        total += sum(linear.flops(work.num_tokens) for linear in decoder.linears)
        total += 2 * products * work.num_pairs * decoder.attention_width
        total += decoder.head.flops(work.num_targets)
    return total


def read_decoder(model: nn.Module, *, through_embeddings: bool = False) -> Decoder:
    """Reads what is trained off a prepared model.

    Args:
        model: A Llama-like causal language model of transformers.
        through_embeddings: Gradients go down to the embeddings' output although they are frozen.
    """
    embeddings = model.get_input_embeddings()
    all_the_way = through_embeddings or embeddings.weight.requires_grad
    found = [_Found.of(name, m) for name, m in model.named_modules() if _is_linear(m)]
    places = [linear.place for linear in found if linear and linear.trained]
    lowest = (-1, 0) if all_the_way else min(places)
    config, head = model.config, model.get_output_embeddings()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Decoder(
        linears=tuple(linear.needs(lowest) for linear in found if linear),
        head=Linear(*head.weight.shape, head.weight.numel() * head.weight.requires_grad, True),
        attention_width=config.num_attention_heads * width,
        attention_backward=tuple(
            _attention_backward([f for f in found if f and f.place == (layer, 0)], lowest)
            for layer in range(config.num_hidden_layers)
        ),
        once_per_step=sum(map(_norm_flops, model.modules())),
    )


@dataclass(frozen=True)
class _Found:
    kind: str  # of the projection
    module: Any
    place: tuple[int, int]  # layer, stage
    is_second_factor: bool

    @classmethod
    def of(cls, name: str, module: nn.Module) -> _Found | None:
        """What lies in a layer; the head does not."""
        layer = re.search(r"\blayers\.(\d+)\.", name)
        if layer is None:
            return None
        kind = next(part for part in name.split(".") if part in _STAGE)
        return cls(kind, module, (int(layer[1]), _STAGE[kind]), "lora_B" in name)

    @property
    def trained(self) -> int:
        weight = self.module.blocks if isinstance(self.module, SparseLinear) else self.module.weight
        return int(weight.numel() * weight.requires_grad)

    def needs(self, lowest: tuple[int, int]) -> Linear:
        """The second factor's input is the first's output, which is trained."""
        return Linear(
            self.module.out_features,
            self.module.in_features,
            self.trained,
            self.place > lowest or self.is_second_factor,
        )


def _attention_backward(inputs: Sequence[_Found], lowest: tuple[int, int]) -> int:
    """Products of a layer's backward: of the probabilities, the queries, the keys, the values.

    Args:
        inputs: What makes its queries, keys and values.
        lowest: The first place where something is trained.
    """
    below = lowest < inputs[0].place
    q, k, v = (
        below or any(found.trained for found in inputs if found.kind == kind) for kind in _STAGES[0]
    )
    return (q or k) + q + k + v


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | SparseLinear)


def _norm_flops(module: Any) -> int:
    """DoRA's norm of W + BA, which needs the product of the factors."""
    if not len(getattr(module, "lora_magnitude_vector", ())):
        return 0
    (first,), (second,) = module.lora_A.values(), module.lora_B.values()
    return 2 * first.in_features * first.out_features * second.out_features


def read_work(batch: MicroBatch) -> Work:
    """What one of our packs asks for."""
    rows = batch.rows
    assert rows is not None, "a padded batch holds more than is needed"
    num_targets = len(batch.positions.unique())
    return Work(batch.input_ids.numel(), allowed_pairs(rows), num_targets)
