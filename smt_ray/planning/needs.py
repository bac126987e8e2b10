"""The memory of a run on one GPU, with one setting or another."""

from __future__ import annotations

from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import SettingMemory
from smt_ray.planning.rows import PlannedRows
from smt_ray.planning.settings import Setting, has_shards
from smt_ray.planning.training import TrainingNeeds
from smt_ray.planning.warmup import warmup_needs


class RunNeeds:
    """The memory and the work of a run's training and warm-up.

    Args:
        num_gpus: The number of training ranks, each with one GPU.

    Raises:
        UserError: The model cannot be found, or it does not allow what the config asks for.
    """

    def __init__(self, config: RunConfig, num_gpus: int) -> None:
        self.rows = rows = PlannedRows.read(config)
        self._has_shards = has_shards(config)
        self.training = TrainingNeeds(config, num_gpus, rows)
        self.warmup = warmup_needs(config, num_gpus, rows, self.training.prepared.blocks)

    def bytes_with(self, setting: Setting) -> int:
        """The largest number of bytes that a GPU holds, in training or in the warm-up."""
        return self.with_setting(setting).bytes

    def with_setting(self, setting: Setting) -> SettingMemory:
        """The memory with a setting."""
        training = self.training.bytes_with(setting)
        warmup = self.warmup.bytes_with(setting) if self.warmup else 0
        return SettingMemory(
            zero_stage=setting.zero_stage,
            checkpointing=setting.checkpointing,
            max_tokens=setting.max_tokens,
            accumulate_on=setting.accumulate_on if self.warmup else None,
            gpus_per_shard=setting.gpus_per_shard if self._has_shards else None,
            training_bytes=training,
            warmup_bytes=warmup,
            bytes=max(training, warmup),
        )
