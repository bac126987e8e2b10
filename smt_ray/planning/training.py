"""The memory of a run's training on one GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from smt_ray.config.run import RunConfig
from smt_ray.planning.activations import DryRun
from smt_ray.planning.curve import ActivationCurve
from smt_ray.planning.memory import RankBytes, rank_bytes
from smt_ray.planning.prepared import prepare_model
from smt_ray.planning.rows import PlannedRows
from smt_ray.planning.settings import Setting
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.batching_mode import choose_mode
from smt_ray.training.engine import LARGEST_BUCKET


class TrainingNeeds:
    """The memory and the work of a training rank, which has one GPU.

    Attributes:
        mode: How the rows are batched, and why if it is not as configured.
        can_recompute: Whether the model supports activation checkpointing.
        secondary_group: See :func:`secondary_group`.
        zero_stages: The ZeRO stages that are possible; stage 3 cannot partition quantised weights.

    Raises:
        UserError: The model cannot be found, or it does not allow what the config asks for.
    """

    def __init__(self, config: RunConfig, num_gpus: int, rows: PlannedRows) -> None:
        self.num_gpus, self.dtype = num_gpus, config.model.dtype
        self.secondary_group = secondary_group(config)
        self.prepared = prepare_model(config)
        self._largest_module = max(map(num_own_parameters, self.prepared.model.modules()))
        self.zero_stages = (0, 1, 2) if self.prepared.quantised.saved else (0, 1, 2, 3)
        model = self.prepared.model
        probe = probe_skeleton(model)
        self.mode = choose_mode(model, config.batching.mode, probe, training=True)
        self.rows = rows.statistics(self.mode.mode, num_gpus)
        run = DryRun(model, self.mode)
        self.can_recompute = run.can_recompute
        self._curves = {
            checkpointing: ActivationCurve(
                run, self.rows, training=True, checkpointing=checkpointing
            )
            for checkpointing in (False, True)
        }

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that a GPU holds."""
        activations = self.activations(setting.max_tokens, checkpointing=setting.checkpointing)
        return self.rank(setting.zero_stage).peak(activations)

    def activations(self, max_tokens: int, *, checkpointing: bool) -> int:
        """The bytes that a micro-batch needs besides parameters and gradients."""
        return self._curves[checkpointing].bytes_at(max_tokens)

    def step_flops(self, *, checkpointing: bool) -> float:
        """The FLOPs of a step on the rank that has the most tokens."""
        return self._curves[checkpointing].flops_of(self.rows.mean_tokens)

    def rank(self, zero_stage: int) -> RankBytes:
        """The bytes that a rank holds besides activations."""
        counts, quantised = self.prepared.counts, self.prepared.quantised
        whole = rank_bytes(
            zero_stage,
            self.num_gpus,
            num_parameters=counts.num_total,
            num_trainable=counts.num_trainable,
            bytes_per_value=self.prepared.value_bytes,
            bucket=min(counts.num_trainable, LARGEST_BUCKET),
            largest_module=self._largest_module,
            secondary_group=self.secondary_group,
        )
        if not quantised.saved:
            return replace(whole, weights=whole.weights + self.prepared.index_bytes)
        # Blocks beside quantised weights also keep the values that they began with.
        kept = self.prepared.value_bytes * counts.num_trainable if self.prepared.blocks else 0
        return replace(
            whole,
            weights=whole.weights - quantised.saved + kept,
            buffers=whole.buffers + quantised.dequantised,
        )


def secondary_group(config: RunConfig) -> int:
    """The number of ranks that share a second copy of the weights under ZeRO-3; 1 for none."""
    zero = config.deepspeed.extra.get("zero_optimization")
    size = zero.get("zero_hpz_partition_size", 1) if isinstance(zero, Mapping) else 1
    return size if isinstance(size, int) else 1


def num_own_parameters(module: nn.Module) -> int:
    """The number of parameters of a module without those of the modules in it."""
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))
