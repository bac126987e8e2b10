"""The memory of a run's warm-up on one GPU, and its network traffic."""

from __future__ import annotations

from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import WarmupMemory
from smt_ray.methods.blocks import EligibleBlocks
from smt_ray.models.inspect import find_eligible
from smt_ray.planning.activations import DryRun
from smt_ray.planning.curve import ActivationCurve
from smt_ray.planning.prepared import model_without_weights, quantised_weights, value_bytes
from smt_ray.planning.rows import PlannedRows
from smt_ray.planning.settings import Setting
from smt_ray.planning.training import TrainingNeeds
from smt_ray.probe.probe import probe_skeleton
from smt_ray.training.batching_mode import choose_mode

_FP32 = 4
_SUM_BYTES = 8  # float64; a block has four of them


def warmup_needs(
    config: RunConfig, num_gpus: int, rows: PlannedRows, blocks: EligibleBlocks | None
) -> ShardedWarmup | TrainedWarmup | None:
    """The memory of a run's warm-up; None if it has none."""
    if not config.has_warmup:
        return None
    assert blocks is not None
    if config.trained_warmup:
        return TrainedWarmup(config, num_gpus, rows, blocks)
    return ShardedWarmup(config, rows, blocks)


class ShardedWarmup:
    """A warm-up whose shards sum the gradients of the base model; see :func:`warmup_needs`."""

    def __init__(self, config: RunConfig, rows: PlannedRows, blocks: EligibleBlocks) -> None:
        self._config, self._blocks = config.warmup, blocks
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
        one_rank = rows.statistics(mode.mode, 1)  # each shard does whole steps
        self._curve = ActivationCurve(DryRun(model, mode), one_rank, training=False)

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that a GPU of a shard holds.

        Several GPUs share the weights and the sums. The activations are counted on each, since they
        may all be on one of them.
        """
        sums = self._per_gpu(self._accumulated) if setting.accumulate_on == "device" else 0
        return self._per_gpu(self._weights) + sums + self._curve.bytes_at(setting.max_tokens)

    def report(self, setting: Setting) -> WarmupMemory:
        """The parts of the memory, and what the shards send."""
        return WarmupMemory(
            mode=self._config.mode,
            accumulate_on=self._config.accumulate_on,
            sums=self._per_gpu(self._accumulated),
            weights=self._per_gpu(self._weights),
            activations=self._curve.bytes_at(setting.max_tokens),
            num_senders=self._config.num_shards,
            traffic=self._traffic(),
        )

    def _traffic(self) -> dict[str, int]:
        """``warmup.reduction`` -> bytes, for those that the run may use."""
        num_shards, num_weights = self._config.num_shards, self._sums // _FP32
        if self._keeps == "activations":
            columns = sum(in_features for _, in_features in self._blocks.shapes.values())
            return {"gradient": num_shards * _SUM_BYTES * columns}
        # One shard also sends the weights, for the saliency.
        gradients = num_shards * self._sums + self._value_bytes * num_weights
        if self._keeps:  # the statistics of square blocks do not show columns or elements
            return {"gradient": gradients}
        num_finest = num_weights // self._blocks.table_block_size**2
        return {"gradient": gradients, "score": num_shards * 4 * _SUM_BYTES * num_finest}

    def _per_gpu(self, num_bytes: int) -> int:
        return -(-num_bytes // self._config.gpus_per_shard)


class TrainedWarmup:
    """A warm-up that is full fine-tuning and also sums gradients; see :func:`warmup_needs`."""

    def __init__(
        self, config: RunConfig, num_gpus: int, rows: PlannedRows, blocks: EligibleBlocks
    ) -> None:
        self._config, self._num_gpus = config.warmup, num_gpus
        self._sums = _sum_bytes(blocks)
        full_fine_tuning = config.model_copy(update={"method": "full"})
        self._training = TrainingNeeds(full_fine_tuning, num_gpus, rows)

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that the GPU of a rank holds."""
        sums = self._sums if setting.accumulate_on == "device" else 0
        return sums + self._training.bytes_with(setting)

    def report(self, setting: Setting) -> WarmupMemory:
        """The parts of the memory, and what the ranks send at the end."""
        return WarmupMemory(
            mode=self._config.mode,
            accumulate_on=self._config.accumulate_on,
            sums=self._sums,
            full_training=self._training.bytes_with(setting),
            num_senders=self._num_gpus,
            # The other ranks send their sums to the first. Each step is reduced as in training.
            traffic={"gradient": (self._num_gpus - 1) * self._sums},
        )


def _sum_bytes(blocks: EligibleBlocks) -> int:
    """The bytes of the gradient sums."""
    return _FP32 * sum(rows * columns for rows, columns in blocks.shapes.values())
