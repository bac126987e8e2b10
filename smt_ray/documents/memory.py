"""The memory that a run needs on each GPU, for ``smt-ray plan``; sizes are in bytes."""

from __future__ import annotations

from pydantic import JsonValue

from smt_ray.documents.base import Document
from smt_ray.documents.run import BlockShape, Trainable


class PlannedBlocks(Document):
    """The blocks that the method selects."""

    num_chosen: int
    num_eligible: int
    block_size: int
    block_shape: BlockShape = "square"
    num_modules: int
    projections: list[str]


class PlannedBatch(Document):
    """The largest micro-batch of the training."""

    mode: str
    fallback: str | None = None
    """The reason if the batch is not made as configured."""
    num_tokens: int
    row_length: int
    """The tokens of the longest row."""
    num_targets: int
    """The number of positions with a target."""
    source: str
    """The source of the sizes, in words."""


class StageMemory(Document):
    """The parts under one ZeRO stage; they add up to the totals."""

    zero_stage: int
    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    total: int
    checkpointed_activations: int | None = None
    checkpointed_total: int | None = None


class WarmupMemory(Document):
    """The warm-up's memory on one GPU, and the bytes that all its shards or ranks send."""

    mode: str
    accumulate_on: str
    sums: int
    """The fp32 gradient sums."""
    weights: int | None = None
    activations: int | None = None
    full_training: int | None = None
    """With ``mode: trained``: full fine-tuning, without the sums."""
    num_senders: int
    traffic: dict[str, int]
    """``warmup.reduction`` -> bytes."""


class SettingMemory(Document):
    """A setting and the memory that it needs."""

    zero_stage: int
    checkpointing: bool
    max_tokens: int
    accumulate_on: str | None = None
    training_bytes: int
    warmup_bytes: int
    bytes: int
    """The larger of the two."""


class Verdict(Document):
    """Whether the run fits a given GPU."""

    gpu_memory: int
    reserved: int
    """Reserved for CUDA's context, the workspaces of kernels and the slack of the allocator."""
    fits: bool
    cheapest: SettingMemory | None = None
    """The cheapest setting that fits."""
    smallest: SettingMemory
    """The setting that needs the least memory."""


class MemoryReport(Document):
    """The whole plan."""

    name: str
    method: str
    num_gpus: int
    num_parameters: int
    dtype: str
    trainable: Trainable
    blocks: PlannedBlocks | None = None
    method_settings: dict[str, JsonValue] = {}
    host_bytes: int | None = None
    """Host memory of each GPU, for the original values of what is trained."""
    adapter_bytes: int
    batch: PlannedBatch
    stages: list[StageMemory]
    warmup: WarmupMemory | None = None
    configured: SettingMemory
    verdict: Verdict | None = None
    """None if no GPU memory was given."""
