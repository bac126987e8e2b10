"""The time of a run's steps, and of its warm-up and training."""

from __future__ import annotations

from dataclasses import dataclass

from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import PlannedTime, SecondCopy
from smt_ray.planning.needs import RunNeeds
from smt_ray.planning.settings import Setting
from smt_ray.planning.time.cluster import Cluster
from smt_ray.planning.time.gathering import Exchange
from smt_ray.planning.training import TrainingNeeds
from smt_ray.planning.warmup import BaseWarmup, RankedWarmup


@dataclass(frozen=True)
class StepTime:
    """The seconds of a step of training.

    Attributes:
        computing: The seconds of products.
        gathering: The seconds in which weights are gathered.
        reducing: The seconds in which gradients are reduced.
    """

    computing: float
    gathering: float
    reducing: float

    @property
    def total(self) -> float:
        """The seconds of the step; the engine does not overlap its parts."""
        return self.computing + self.gathering + self.reducing


def plan_time(
    config: RunConfig, needs: RunNeeds, setting: Setting, cluster: Cluster, available: int | None
) -> PlannedTime:
    """The time of a run with a setting.

    Args:
        setting: The setting, which is the configured one or the cheapest one that fits.
        cluster: The GPUs.
        available: The bytes of a GPU that can be used; None if they are not known.
    """
    training = needs.training
    exchange = _exchange(training, setting)
    step = _step_time(training, setting, cluster, exchange)
    num_steps = needs.rows.num_steps
    in_training = None if num_steps is None else num_steps - config.first_step
    return PlannedTime(
        gpu_type=cluster.gpu.name,
        peak_flops=cluster.gpu.peak(config.model.dtype),
        mfu=cluster.mfu,
        gpus_per_node=cluster.gpus_per_node,
        network_gbps=cluster.network_gbps,
        link_bytes=cluster.gpu.link,
        zero_stage=setting.zero_stage,
        num_micro_batches=exchange.num_micro_batches,
        step_flops=training.step_flops(checkpointing=setting.checkpointing),
        step_seconds=step.total,
        compute_seconds=step.computing,
        gather_seconds=step.gathering,
        reduce_seconds=step.reducing,
        gathered_bytes=exchange.gathered_bytes(cluster),
        tokens_per_second=training.rows.all_tokens / step.total,
        num_steps=in_training,
        training_seconds=None if in_training is None else in_training * step.total,
        warmup_steps=config.warmup.num_steps if config.has_warmup else None,
        warmup_seconds=_warmup_seconds(config, needs, setting, cluster),
        second_copy=_second_copy(training, setting, cluster, step, available),
    )


def _exchange(training: TrainingNeeds, setting: Setting, group: int | None = None) -> Exchange:
    counts, size = training.prepared.counts, training.prepared.value_bytes
    return Exchange(
        zero_stage=setting.zero_stage if training.num_gpus > 1 else 0,
        frozen_bytes=size * (counts.num_total - counts.num_trainable),
        trained_bytes=size * counts.num_trainable,
        num_micro_batches=training.rows.num_micro_batches(setting.max_tokens),
        checkpointing=setting.checkpointing,
        group=training.secondary_group if group is None else group,
    )


def _step_time(
    training: TrainingNeeds, setting: Setting, cluster: Cluster, exchange: Exchange
) -> StepTime:
    counts, size = training.prepared.counts, training.prepared.value_bytes
    num_reads = exchange.num_micro_batches * (3 if setting.checkpointing else 2)
    computing = cluster.compute_seconds(
        training.step_flops(checkpointing=setting.checkpointing),
        num_reads * size * counts.num_total,
        training.dtype,
    )
    return StepTime(computing, exchange.gather_seconds(cluster), exchange.reduce_seconds(cluster))


def _warmup_seconds(
    config: RunConfig, needs: RunNeeds, setting: Setting, cluster: Cluster
) -> float | None:
    """The seconds of the warm-up's steps."""
    warmup, num_steps = needs.warmup, config.warmup.num_steps
    if warmup is None:
        return None
    if isinstance(warmup, BaseWarmup):
        # The GPUs of a place compute one after the other, each its own layers.
        seconds = cluster.compute_seconds(warmup.step_flops(setting), 0, config.model.dtype)
        if isinstance(warmup, RankedWarmup):
            group = needs.training.secondary_group
            seconds += warmup.exchange(setting, group).gather_seconds(cluster)
        return -(-num_steps // warmup.num_processes(setting)) * seconds
    full = warmup.training
    step = _step_time(full, setting, cluster, _exchange(full, setting))
    return num_steps * step.total


def _second_copy(
    training: TrainingNeeds,
    setting: Setting,
    cluster: Cluster,
    step: StepTime,
    available: int | None,
) -> SecondCopy | None:
    """A second copy of the weights in each node, if gathering from all nodes dominates."""
    size = cluster.num_local
    if step.gathering <= step.computing or setting.zero_stage < 3 or cluster.num_nodes < 2:
        return None
    if training.secondary_group > 1 or cluster.num_gpus % size:
        return None
    exchange = _exchange(training, setting, size)
    added = -(-training.prepared.value_bytes * training.prepared.counts.num_total // size)
    needed = training.bytes_with(setting) + added
    return SecondCopy(
        partition_size=size,
        added_bytes=added,
        total_bytes=needed,
        fits=None if available is None else needed <= available,
        gather_seconds=exchange.gather_seconds(cluster),
        step_seconds=_step_time(training, setting, cluster, exchange).total,
    )
