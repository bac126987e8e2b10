"""The assembly of one rank: a base model, a method and rows become a training that can run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn

from smt_ray.data.batches import StepPlan
from smt_ray.data.encoding.stored import EncodedRows
from smt_ray.documents.probe import Probe
from smt_ray.documents.stages import RankOutcome
from smt_ray.methods.protocol import Method
from smt_ray.training.batching_mode import attention_kernel, choose_mode
from smt_ray.training.engine import Engine
from smt_ray.training.engine_settings import EngineSettings
from smt_ray.training.loop import Callbacks, LoopSettings, TrainingLoop
from smt_ray.training.loss.supervised import SupervisedLoss
from smt_ray.training.recompute import recompute_activations

_PREFIX = "model."  # begins the names of the model's parameters within SupervisedLoss


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training; names and meanings are those of the run's configuration.

    Attributes:
        engine: The engine's settings.
        loop: The loop's settings. Its batching mode may be replaced by one that is exact for the
            model; its seed also determines the order of rows.
        batch_size: The number of rows of a step over all ranks.
        activation_checkpointing: Whether the backward pass computes activations again.
    """

    engine: EngineSettings
    loop: LoopSettings
    batch_size: int
    activation_checkpointing: bool = False


class RankTraining:
    """One rank's training.

    A process makes one; torch.distributed must be initialised, and every rank does the same.

    Args:
        model: The loaded base model, on ``settings.engine.loading_device(device)``.
        method: The method, which prepares the model here.
        training: The tokenised rows that are trained on.
        validation: The tokenised rows that are held out; None for no validation.
        settings: See :class:`TrainingSettings`.
        probe: What the architecture of the model allows.
        callbacks: The functions that the loop calls.
        device: This rank's device.
        after_prepare: A function that is called with the prepared model before the engine takes
            its parameters.

    Attributes:
        model: The prepared model.
        method: The method.
        counts: How much of the model is trained.
        engine: The engine, in training mode.
        batching: How rows are batched.
        loop: The loop; its ``run`` trains.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        training: EncodedRows,
        validation: EncodedRows | None,
        settings: TrainingSettings,
        probe: Probe,
        callbacks: Callbacks,
        device: torch.device,
        *,
        after_prepare: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.model, self.method, self.settings = model, method, settings
        method.prepare(model)
        if after_prepare is not None:
            after_prepare(model)
        self.counts = method.count(model)  # before the engine partitions the weights
        if settings.activation_checkpointing:
            recompute_activations(model)
        self.batching = mode = choose_mode(model, settings.loop.batching, probe, training=True)
        loss = SupervisedLoss(model, narrow=mode.narrows, max_logits=mode.max_logits)
        self._attention = loss.attention
        self.engine = Engine(loss, settings.engine, device=device)
        self.engine.train()
        self.loop = TrainingLoop(
            self.engine,
            training,
            validation,
            StepPlan(len(training), settings.batch_size, settings.loop.seed),
            replace(settings.loop, batching=self.batching.mode),
            callbacks,
        )

    def export_parameters(self, keep: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """The trained parameters by the model's own names, in fp32 on the CPU.

        Args:
            keep: The names that the engine has for those that this rank needs, by default all;
                every rank takes part.
        """
        return own_names(self.engine.export_parameters(keep))

    def outcome(self, metrics: dict[str, float], resumed_from: int) -> RankOutcome:
        """The end of the training, and what it ran on.

        Args:
            metrics: The last value of every metric.
            resumed_from: The step of the checkpoint that it resumed from; 0 for none.
        """
        return RankOutcome(
            metrics=metrics,
            resumed_from=resumed_from,
            trainable=self.counts.summary(),
            num_ranks=dist.get_world_size(),
            zero_stage=self.engine.zero_stage,
            dtype=self.settings.engine.dtype,
            optimizer=self.engine.optimizer_name,
            device=_device_name(self.engine.device),
            kernel=attention_kernel(self.batching, self._attention),
            batching=f"{self.batching.mode}, {self.settings.loop.max_tokens} tokens",
            batching_fallback=self.batching.fallback,
        )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    number = torch.get_num_threads()
    return f"cpu ({number} thread{'s' if number > 1 else ''})"


def own_names(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters by the model's own names, from those by the names that the engine has for them."""
    return {name.removeprefix(_PREFIX): value for name, value in parameters.items()}
