"""The configurations that step.py compares: each method as users run it today, and on our code.

All configurations of one base model are in memory at the same time. They share the weights that
they do not change. full, smt and sift (which write into weights) have copies of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Laps
from smt_ray.config.method import (
    DEFAULT_BUDGET,
    DEFAULT_RANK,
    DEFAULT_TARGET_MODULES,
    LORA_TARGET_MODULES,
)
from smt_ray.data.batches import MicroBatch, step_micro_batches
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.methods.full import FullMethod
from smt_ray.methods.lora import LoraMethod, LoraSettings
from smt_ray.methods.lora_targets import default_alpha
from smt_ray.methods.placed import PlacedMethod
from smt_ray.methods.protocol import Method
from smt_ray.methods.smt import SmtMethod
from smt_ray.models.inspect import count_parameters, find_eligible
from smt_ray.places.elements import select_elements
from smt_ray.places.selection import PlaceSelection
from smt_ray.smt.gradients import GradientAccumulator
from smt_ray.smt.grid import common_block_size
from smt_ray.smt.linears import dense_weight, linear_shapes
from smt_ray.smt.scores import ScoreTable, block_statistics
from smt_ray.smt.selection import Selection, select_blocks
from smt_ray.training.loss.supervised import SupervisedLoss

PEERS = {"padded": ("full", "lora", "dora"), "packed": ("full", "lora", "dora", "sift")}
"""The methods that smt is compared with, by their batching.

There is no maintained implementation of SIFT that users run today.
"""
FLOOR = "floor packed"
NAMES = (
    *(f"{method} {batching}" for batching, peers in PEERS.items() for method in (*peers, "smt")),
    FLOOR,
)
PHASES = ("batching", "forward", "backward", "optimizer")

_PEFT_DROPOUT = 0.05
_IGNORED = -100  # the label that cross_entropy ignores
_LEARNING_RATE = 1e-5


@dataclass(frozen=True)
class Batching:
    """The ways to make micro-batches from rows.

    Attributes:
        encoded: The tokenised rows.
        tokenizer: The tokenizer, which pads the batches of transformers' collator.
        num_rows: The number of rows of a padded micro-batch.
        max_tokens: The number of tokens of a packed micro-batch.
    """

    encoded: EncodedRows
    tokenizer: Any
    num_rows: int
    max_tokens: int

    def packed(self, rows: Sequence[int]) -> list[MicroBatch]:
        """The default of our training: no padding, and shared prefixes are computed once."""
        return step_micro_batches(
            self.encoded, rows, max_tokens=self.max_tokens, train_on_inputs=False,
            mode="prefix_packed",
        )  # fmt: skip

    def padded(self, rows: Sequence[int]) -> list[MicroBatch]:
        """The padded mode of our training, with room for ``num_rows`` of the longest row."""
        longest = int(self.encoded.lengths[list(rows)].max())
        return step_micro_batches(
            self.encoded, rows, max_tokens=self.num_rows * longest, train_on_inputs=False,
            mode="padded",
        )  # fmt: skip

    def collated(self, rows: Sequence[int]) -> list[Any]:
        """The batches of a plain transformers script: rows in order, padded by its collator."""
        from transformers import DataCollatorForSeq2Seq

        collator = DataCollatorForSeq2Seq(self.tokenizer, label_pad_token_id=_IGNORED)
        chunks = (rows[i : i + self.num_rows] for i in range(0, len(rows), self.num_rows))
        return [collator([self._features(row) for row in chunk]) for chunk in chunks]

    def _features(self, row: int) -> dict[str, list[int]]:
        ids = self.encoded.row(row).tolist()
        targets = set(self.encoded.targets(row, False).tolist())
        labels = [token if place in targets else _IGNORED for place, token in enumerate(ids)]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


@dataclass(frozen=True)
class Selected:
    """What a short warm-up selects.

    Attributes:
        blocks: The blocks that smt trains.
        elements: The elements that sift trains: as many, the same share of each weight.
    """

    blocks: Selection
    elements: PlaceSelection


@dataclass(frozen=True)
class Trainee:
    """A model that is prepared for training, with its optimizer; None if nothing is trained."""

    model: nn.Module
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer | None

    @classmethod
    def of(cls, model: nn.Module) -> Trainee:
        """Adds the trainer's optimizer (on the CPU: fused AdamW) for the trained parameters."""
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=_LEARNING_RATE, fused=True) if trained else None
        return cls(model, trained, optimizer)

    def held(self) -> list[Tensor]:
        """The parameters and buffers of the model."""
        return [*self.model.parameters(), *self.model.buffers()]

    def state(self) -> list[Tensor]:
        """The tensors that the optimizer keeps."""
        states = self.optimizer.state.values() if self.optimizer else ()
        return [v for state in states for v in state.values() if isinstance(v, Tensor)]


@dataclass(frozen=True)
class Configuration:
    """One way to take an optimizer step over given rows, on one device.

    Attributes:
        trainee: The model and its optimizer.
        batches: The function that makes the micro-batches of some rows.
        loss: The function of a micro-batch and their number: its share of the step's loss.
        device: The device of the model.
    """

    trainee: Trainee
    batches: Callable[[Sequence[int]], list[Any]]
    loss: Callable[[Any, int], Tensor]
    device: torch.device

    def step(self, rows: Sequence[int]) -> dict[str, float]:
        """Takes a step and returns the seconds of each phase."""
        laps = Laps(self.device)
        batches = [batch.to(self.device) for batch in self.batches(rows)]
        laps.lap("batching")
        for batch in batches:
            loss = self.loss(batch, len(batches))
            laps.lap("forward")
            loss.backward()
            laps.lap("backward")
        if optimizer := self.trainee.optimizer:
            torch.nn.utils.clip_grad_norm_(self.trainee.parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        laps.lap("optimizer")
        return laps.seconds()


def make_configurations(
    base: nn.Module, batching: Batching, selected: Selected, names: Sequence[str] = NAMES
) -> dict[str, Configuration]:
    """Makes the configurations of a base model, whose parameters must be frozen.

    Args:
        base: A causal language model of transformers.
        batching: The rows and the ways to make micro-batches from them.
        selected: The blocks and elements that smt and sift train.
        names: The configurations to make, out of ``NAMES``.
    """
    device = next(base.parameters()).device
    methods: dict[str, Method] = {
        "full": FullMethod(),
        "smt": SmtMethod(selected.blocks),
        "sift": PlacedMethod(selected.elements),
    }
    own = {  # padded and packed steps share weights and optimizer
        name: Trainee.of(_prepared(copy.deepcopy(base), method))
        for name, method in methods.items()
        if any(configuration.startswith(name) for configuration in names)
    }
    made = {}
    for name in names:
        method, way = name.split()
        if method in own:
            trainee = replace(own[method], model=_sharing_weights(own[method].model))
        elif name == FLOOR:
            trainee = Trainee.of(_floor(_sharing_weights(base)))
        else:
            dropout = _PEFT_DROPOUT if way == "padded" else 0.0
            adapted = LoraMethod(_lora_settings(dropout, use_dora=method == "dora"))
            trainee = Trainee.of(_prepared(_sharing_weights(base), adapted))
        if way == "padded" and method != "smt":
            made[name] = Configuration(trainee, batching.collated, _model_loss(trainee), device)
        else:
            batches = batching.padded if way == "padded" else batching.packed
            made[name] = Configuration(trainee, batches, _our_loss(trainee), device)
    return made


def select(base: nn.Module, batching: Batching, steps: Sequence[Sequence[int]]) -> Selected:
    """Selects by a short warm-up, with the published scores, SMT's budget and projections.

    Args:
        base: The frozen base model.
        batching: The rows and the ways to make micro-batches from them.
        steps: The rows of each warm-up step.
    """
    model = _sharing_weights(base).eval()
    device = next(model.parameters()).device
    eligible = find_eligible(model, DEFAULT_TARGET_MODULES)
    size = common_block_size(linear_shapes(eligible))
    loss = SupervisedLoss(model, narrow=True)
    with GradientAccumulator(model, eligible) as sums:
        for rows in steps:
            for batch in batching.packed(rows):
                loss(batch.to(device)).backward()
    gradients = {name: sums.pop(name) for name in sums.names}
    statistics = {
        name: block_statistics(gradient, dense_weight(eligible[name]), size).cpu()
        for name, gradient in gradients.items()
    }
    num_parameters = count_parameters(model)
    table = ScoreTable(size, statistics, num_parameters, len(steps))
    blocks = select_blocks(table, budget=DEFAULT_BUDGET)
    elements = select_elements(
        lambda name: gradients[name].cpu(), linear_shapes(eligible), blocks.num_trainable,
        num_base_parameters=num_parameters, scope="per_module",
    )  # fmt: skip
    return Selected(blocks, elements)


def _prepared(model: nn.Module, method: Method) -> nn.Module:
    method.prepare(model)
    return model


def _lora_settings(dropout: float, *, use_dora: bool) -> LoraSettings:
    return LoraSettings(
        rank=DEFAULT_RANK,
        alpha=default_alpha(DEFAULT_RANK),
        dropout=dropout,
        target_modules=LORA_TARGET_MODULES,
        use_dora=use_dora,
        seed=0,
    )


def _sharing_weights(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the parameters."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def _floor(model: nn.Module) -> nn.Module:
    """Trains nothing, but lets the gradient flow down to the output of the embeddings."""
    model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    return model


def _model_loss(trainee: Trainee) -> Callable[[Any, int], Tensor]:
    """The model's own loss, on the logits of every position."""
    model = trainee.model
    return lambda batch, num_batches: model(**batch, use_cache=False).loss / num_batches


def _our_loss(trainee: Trainee) -> Callable[[Any, int], Tensor]:
    """Our loss: the sum over targets, already divided by the number of targets in the step."""
    supervised = SupervisedLoss(trainee.model, narrow=True)
    return lambda batch, _num_batches: supervised(batch)
