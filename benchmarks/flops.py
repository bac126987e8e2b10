"""The minimal arithmetic of a step, in FLOPs (a multiply and an add are two).

The count includes the forward of each linear; its input gradient, if a trained part comes before
it; the gradient of the trained weight elements; attention over the pairs of positions that the mask
allows; and the head on supervised positions only. It does not include element-wise work, norms and
recomputation. It applies to Llama-like decoders, whose projections have the names below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from smt_ray.data.batches import MicroBatch
from smt_ray.data.packing import PackedRows
from smt_ray.places.layouts import PlacedLinear
from smt_ray.smt.layers.partial import PartialLinear

# Projections in the order in which a layer uses them; projections of one stage share their input.
_STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
_STAGE = {name: stage for stage, names in enumerate(_STAGES) for name in names}


@dataclass(frozen=True)
class Linear:
    """One linear of the model.

    Attributes:
        out_features: O.
        in_features: I.
        trained: The number of weight elements whose gradient is needed.
        input_gradient: Whether the gradient of its input is needed.
    """

    out_features: int
    in_features: int
    trained: int
    input_gradient: bool

    def flops(self, num_tokens: int) -> int:
        """The FLOPs of forward and backward on an input (num_tokens, I)."""
        dense = self.out_features * self.in_features
        return 2 * num_tokens * (dense * (1 + self.input_gradient) + self.trained)


@dataclass(frozen=True)
class Decoder:
    """A model that is prepared for training.

    Attributes:
        linears: The linears of the layers.
        head: The output head.
        attention_width: The number of heads times the width of a head.
        attention_backward: The number of products over pairs that the attention's backward of
            each layer needs, out of four.
        once_per_step: The FLOPs that do not depend on tokens (DoRA's norms of W + BA).
    """

    linears: tuple[Linear, ...]
    head: Linear
    attention_width: int
    attention_backward: tuple[int, ...]
    once_per_step: int = 0


@dataclass(frozen=True)
class Work:
    """The sizes of a micro-batch that determine its FLOPs.

    Attributes:
        num_tokens: The number of positions that the layers run on.
        num_pairs: The number of (query, key) pairs that the mask allows.
        num_targets: The number of positions that the head runs on.
    """

    num_tokens: int
    num_pairs: int
    num_targets: int


def allowed_pairs(rows: PackedRows) -> int:
    """The number of causal (query, key) pairs of packed rows."""
    return sum(s.length * s.start + s.length * (s.length + 1) // 2 for s in rows.segments)


def step_flops(decoder: Decoder, works: Sequence[Work]) -> int:
    """The FLOPs of a step with several micro-batches."""
    # The forward has two products over the pairs: the scores, and the mean of the values.
    products = sum(2 + backward for backward in decoder.attention_backward)
    total = decoder.once_per_step
    for work in works:
        total += sum(linear.flops(work.num_tokens) for linear in decoder.linears)
        total += 2 * products * work.num_pairs * decoder.attention_width
        total += decoder.head.flops(work.num_targets)
    return total


def read_decoder(model: nn.Module, *, through_embeddings: bool = False) -> Decoder:
    """Finds the linears of a prepared model, and the gradients that they need.

    Args:
        model: A Llama-like causal language model of transformers.
        through_embeddings: Whether gradients flow down to the output of frozen embeddings.
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
        """A linear of a layer; None for the head, which is outside the layers."""
        layer = re.search(r"\blayers\.(\d+)\.", name)
        if layer is None:
            return None
        kind = next(part for part in name.split(".") if part in _STAGE)
        return cls(kind, module, (int(layer[1]), _STAGE[kind]), "lora_B" in name)

    @property
    def trained(self) -> int:
        module = self.module
        if isinstance(module, PlacedLinear) and module.layout.kind == "element":
            return module.out_features * module.in_features  # gathered from a dense gradient
        weight = module.blocks if isinstance(module, PartialLinear) else module.weight
        return int(weight.numel() * weight.requires_grad)

    def needs(self, lowest: tuple[int, int]) -> Linear:
        """The linear; a second factor always needs its input gradient, for the first factor."""
        return Linear(
            self.module.out_features,
            self.module.in_features,
            self.trained,
            self.place > lowest or self.is_second_factor,
        )


def _attention_backward(inputs: Sequence[_Found], lowest: tuple[int, int]) -> int:
    """The number of products that a layer's attention needs in its backward.

    They are the gradients of the probabilities, the queries, the keys and the values. ``inputs``
    are the linears that make queries, keys and values; ``lowest`` is the first trained place.
    """
    below = lowest < inputs[0].place
    q, k, v = (
        below or any(found.trained for found in inputs if found.kind == kind) for kind in _STAGES[0]
    )
    return (q or k) + q + k + v


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | PartialLinear)


def _norm_flops(module: Any) -> int:
    """The FLOPs of DoRA's norm of W + BA, which needs the product of the factors."""
    if not len(getattr(module, "lora_magnitude_vector", ())):
        return 0
    (first,), (second,) = module.lora_A.values(), module.lora_B.values()
    return 2 * first.in_features * first.out_features * second.out_features


def read_work(batch: MicroBatch) -> Work:
    """The sizes of one of our packed micro-batches."""
    rows = batch.rows
    assert rows is not None, "a padded batch holds positions that are not needed"
    num_targets = len(batch.positions.unique())
    return Work(batch.input_ids.numel(), allowed_pairs(rows), num_targets)
