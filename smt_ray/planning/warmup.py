"""The memory of a run's warm-up on one GPU and on its host, and its network traffic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import WarmupMemory
from smt_ray.methods.blocks import EligibleBlocks
from smt_ray.models.inspect import find_eligible
from smt_ray.planning.activations import DryRun, Needs
from smt_ray.planning.curve import ActivationCurve
from smt_ray.planning.memory import rank_bytes
from smt_ray.planning.prepared import model_without_weights, quantised_weights, value_bytes
from smt_ray.planning.rows import PlannedRows
from smt_ray.planning.settings import Setting
from smt_ray.planning.time.gathering import Exchange
from smt_ray.planning.training import TrainingNeeds, num_own_parameters, secondary_group
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.batching_mode import choose_mode

_FP32 = 4
_SUM_BYTES = 8  # float64; a block has four of them
_STORED_PARTS = 4  # the modules of a place that Ray's object store holds; see smt_ray.stages.chain


def warmup_needs(
    config: RunConfig, num_gpus: int, rows: PlannedRows, blocks: EligibleBlocks | None
) -> BaseWarmup | TrainedWarmup | None:
    """The memory and the work of a run's warm-up; None if it has none."""
    if not config.has_warmup:
        return None
    assert blocks is not None
    if config.trained_warmup:
        return TrainedWarmup(config, num_gpus, rows, blocks)
    kind = ShardedWarmup if config.warmup.processes == "shards" else RankedWarmup
    return kind(config, num_gpus, rows, blocks)


class BaseWarmup(ABC):
    """A warm-up that sums the gradients of the base model; see :func:`warmup_needs`."""

    def __init__(
        self, config: RunConfig, num_gpus: int, rows: PlannedRows, blocks: EligibleBlocks
    ) -> None:
        self._config, self._blocks, self._num_gpus = config.warmup, blocks, num_gpus
        self._batch_size = config.training.batch_size
        self._value_bytes = value_bytes(config)
        self._sums = _sum_bytes(blocks)
        # The gradients of the present step are summed apart, if scores need single steps.
        self._accumulated = self._sums * (2 if config.sums_of_steps else 1)
        self._keeps = config.warmup_keeps
        if self._keeps == "activations":  # there are no gradients
            self._accumulated = 0
        model = model_without_weights(config).requires_grad_(False)
        quantised = quantised_weights(config, model)
        whole = self._value_bytes * blocks.num_parameters
        self._weights = whole - quantised.saved + quantised.dequantised
        for linear in find_eligible(model, list(blocks.shapes)).values():
            linear.get_parameter("weight").requires_grad_(True)
        probe = probe_skeleton(model)
        mode = choose_mode(model, config.batching.mode, probe, training=False)
        self.rows = rows.statistics(mode.mode, 1)  # each process does whole steps
        self._run = DryRun(model, mode)
        self._curve = ActivationCurve(self._run, self.rows, training=False)
        self._largest_module = max(map(num_own_parameters, model.modules()))
        self._secondary_group = secondary_group(config)

    @abstractmethod
    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that a GPU holds."""

    @abstractmethod
    def report(self, setting: Setting) -> WarmupMemory:
        """The parts of the memory, and what the processes send."""

    @abstractmethod
    def num_processes(self, setting: Setting) -> int:
        """The number of steps that are computed at the same time."""

    @abstractmethod
    def step_flops(self, setting: Setting) -> float:
        """The FLOPs of a step, all of which one process computes."""

    def _traffic(self, num_processes: int, num_weights_sent: int) -> dict[str, int]:
        """``warmup.reduction`` -> bytes, for those that the run may use."""
        num_weights = self._sums // _FP32
        if self._keeps == "activations":
            columns = sum(in_features for _, in_features in self._blocks.shapes.values())
            return {"gradient": num_processes * _SUM_BYTES * columns}
        gradients = num_processes * self._sums + num_weights_sent * self._value_bytes * num_weights
        num_finest = num_weights // self._blocks.table_block_size**2
        statistics = num_processes * 4 * _SUM_BYTES * num_finest
        # The statistics of square blocks do not show columns or elements, and ranks add gradients.
        is_whole = self._keeps or self._config.processes == "ranks"
        return {"gradient": gradients} | ({} if is_whole else {"score": statistics})


class ShardedWarmup(BaseWarmup):
    """A warm-up by shards.

    Shards take turns on places, each of which has the GPUs of one shard and one sum. The places are
    assumed to be on the GPUs of the training.
    """

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that a GPU of a place holds.

        Several GPUs share the weights and the sums. The activations are counted on each, since they
        may all be on one of them.
        """
        number = setting.gpus_per_shard
        sums = _share(self._accumulated, number) if setting.accumulate_on == "device" else 0
        return _share(self._weights, number) + sums + self._activations(setting)

    def report(self, setting: Setting) -> WarmupMemory:
        """The parts of the memory, and what the places send."""
        number = setting.gpus_per_shard
        return WarmupMemory(
            mode=self._config.mode,
            accumulate_on=setting.accumulate_on,
            sums=_share(self._accumulated, number),
            gpus_per_place=number,
            weights=_share(self._weights, number),
            activations=self._activations(setting),
            num_shards=self._config.num_shards,
            num_senders=self.num_processes(setting),
            store_bytes=self._store_bytes(),
            # The last place also sends the weights, for the saliency.
            traffic=self._traffic(self.num_processes(setting), num_weights_sent=1),
        )

    def num_processes(self, setting: Setting) -> int:
        """The number of places on the GPUs: at most one for each shard."""
        return max(1, min(self._config.num_shards, self._num_gpus // setting.gpus_per_shard))

    def step_flops(self, setting: Setting) -> float:
        """The FLOPs of a step, all of which one place computes."""
        if self._keeps == "activations":  # row by row
            return self._forward.flops * self._batch_size
        return self._curve.flops_of(self.rows.mean_tokens)

    @cached_property
    def _forward(self) -> Needs:
        return self._run.measure_forward(self.rows.row_length)

    def _activations(self, setting: Setting) -> int:
        if self._keeps == "activations":
            return self._forward.peak
        return self._curve.bytes_at(setting.max_tokens)

    def _store_bytes(self) -> int:
        """What Ray's object store holds for a place: a few modules of its sum, with their weights.

        The statistics of columns or blocks are small.
        """
        if self._keeps == "activations":
            return _STORED_PARTS * _SUM_BYTES * max(i for _, i in self._blocks.shapes.values())
        largest = max(rows * columns for rows, columns in self._blocks.shapes.values())
        if self._config.reduction == "score" and not self._keeps:
            return _STORED_PARTS * 4 * _SUM_BYTES * largest // self._blocks.table_block_size**2
        return _STORED_PARTS * (_FP32 + self._value_bytes) * largest


class RankedWarmup(BaseWarmup):
    """A warm-up on the ranks of training, whose ZeRO stage and activation checkpointing it has.

    Each rank has sums of its own. ZeRO-3 partitions the weights, and there is nothing else to
    partition.
    """

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that the GPU of a rank holds."""
        sums = self._accumulated if setting.accumulate_on == "device" else 0
        return self._held(setting) + sums + self._activations(setting)

    def report(self, setting: Setting) -> WarmupMemory:
        """The parts of the memory, and what the ranks send at the end."""
        return WarmupMemory(
            mode=self._config.mode,
            processes="ranks",
            accumulate_on=setting.accumulate_on,
            sums=self._accumulated,
            weights=self._held(setting),
            activations=self._activations(setting),
            num_senders=self._num_gpus,
            # Each module is added up on one rank.
            traffic=self._traffic(self._num_gpus - 1, num_weights_sent=0),
        )

    def num_processes(self, setting: Setting) -> int:
        """The number of ranks, each of which computes steps of its own."""
        return self._num_gpus

    def step_flops(self, setting: Setting) -> float:
        """The FLOPs of a step, all of which one rank computes."""
        return self._curve_with(setting).flops_of(self.rows.mean_tokens)

    def exchange(self, setting: Setting, group: int) -> Exchange:
        """What a rank gathers in a step."""
        return Exchange(
            zero_stage=setting.zero_stage if self._num_gpus > 1 else 0,
            frozen_bytes=self._value_bytes * self._blocks.num_parameters,
            trained_bytes=0,
            num_micro_batches=self.rows.num_micro_batches(setting.max_tokens),
            checkpointing=setting.checkpointing,
            group=group,
        )

    def _held(self, setting: Setting) -> int:
        """The weights of a rank, and under ZeRO-3 also those that are gathered at the same time."""
        if setting.zero_stage < 3:
            return self._weights
        frozen = rank_bytes(
            3, self._num_gpus,
            num_parameters=self._blocks.num_parameters, num_trainable=0,
            bytes_per_value=self._value_bytes, bucket=0, largest_module=self._largest_module,
            secondary_group=self._secondary_group,
        )  # fmt: skip
        return frozen.peak(0)

    def _activations(self, setting: Setting) -> int:
        return self._curve_with(setting).bytes_at(setting.max_tokens)

    def _curve_with(self, setting: Setting) -> ActivationCurve:
        return self._recomputed if setting.checkpointing else self._curve

    @cached_property
    def _recomputed(self) -> ActivationCurve:
        # Layers are only computed again in training mode here; without dropout that is the same.
        return ActivationCurve(self._run, self.rows, training=True, checkpointing=True)


class TrainedWarmup:
    """A warm-up that is full fine-tuning and also sums gradients; see :func:`warmup_needs`."""

    def __init__(
        self, config: RunConfig, num_gpus: int, rows: PlannedRows, blocks: EligibleBlocks
    ) -> None:
        self._config, self._num_gpus = config.warmup, num_gpus
        self._sums = _sum_bytes(blocks)
        full_fine_tuning = config.model_copy(update={"method": "full"})
        self.training = TrainingNeeds(full_fine_tuning, num_gpus, rows)

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that the GPU of a rank holds."""
        sums = self._sums if setting.accumulate_on == "device" else 0
        return sums + self.training.bytes_with(setting)

    def report(self, setting: Setting) -> WarmupMemory:
        """The parts of the memory, and what the ranks send at the end."""
        return WarmupMemory(
            mode=self._config.mode,
            accumulate_on=setting.accumulate_on,
            sums=self._sums,
            full_training=self.training.bytes_with(setting),
            num_senders=self._num_gpus,
            # The other ranks send their sums to the first. Each step is reduced as in training.
            traffic={"gradient": (self._num_gpus - 1) * self._sums},
        )


def _share(num_bytes: int, num_gpus: int) -> int:
    return -(-num_bytes // num_gpus)


def _sum_bytes(blocks: EligibleBlocks) -> int:
    """The bytes of the gradient sums."""
    return _FP32 * sum(rows * columns for rows, columns in blocks.shapes.values())
