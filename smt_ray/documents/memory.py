"""The memory and the time that a run needs, for ``smt-ray plan``; sizes are in bytes."""

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
    """The warm-up's memory on one GPU, and the bytes that all its places or ranks send."""

    mode: str
    processes: str = "shards"
    accumulate_on: str
    sums: int
    """The fp32 gradient sums of a GPU, or of the host that holds them for it."""
    gpus_per_place: int = 1
    """The number of GPUs that share the weights and the sums of a place."""
    weights: int | None = None
    activations: int | None = None
    full_training: int | None = None
    """With ``mode: trained``: full fine-tuning, without the sums."""
    num_shards: int = 1
    num_senders: int
    """The number of places, on which shards take turns, or of ranks."""
    store_bytes: int = 0
    """What a place holds in Ray's object store at the most, while it streams its sums."""
    traffic: dict[str, int]
    """``warmup.reduction`` -> bytes."""


class SettingMemory(Document):
    """A setting and the memory that it needs."""

    zero_stage: int
    checkpointing: bool
    max_tokens: int
    accumulate_on: str | None = None
    gpus_per_shard: int | None = None
    """None without shards."""
    training_bytes: int
    warmup_bytes: int
    bytes: int
    """The larger of the two."""


class Verdict(Document):
    """Whether the run fits a given GPU. It fits with a setting if the bytes of the setting are at
    most ``gpu_memory`` less ``reserved``.
    """

    gpu_memory: int
    reserved: int
    """Reserved for CUDA's context, the workspaces of kernels and the slack of the allocator."""
    fits: bool
    cheapest: SettingMemory | None = None
    """The cheapest setting that fits."""
    smallest: SettingMemory
    """The setting that needs the least memory."""


class SecondCopy(Document):
    """ZeRO-3 with a second copy of the weights in each node, of which each GPU holds a part."""

    partition_size: int
    """DeepSpeed's ``zero_hpz_partition_size``."""
    added_bytes: int
    total_bytes: int
    """What a GPU holds in training with the copy."""
    fits: bool | None = None
    """None if no GPU memory was given."""
    gather_seconds: float
    step_seconds: float


class PlannedTime(Document):
    """The time of a run, from its FLOPs and the stated peaks of a type of GPU."""

    gpu_type: str
    peak_flops: float
    """FLOP/s of products in the model's dtype."""
    mfu: float
    """The assumed share of that peak."""
    gpus_per_node: int
    network_gbps: float
    """Gigabits per second that a node receives."""
    link_bytes: float
    """Bytes per second that a GPU receives from those of its node."""
    zero_stage: int
    num_micro_batches: int
    """The micro-batches of a step on a rank."""
    step_flops: float
    """The FLOPs of a step on a rank."""
    step_seconds: float
    compute_seconds: float
    gather_seconds: float
    reduce_seconds: float
    gathered_bytes: int
    """The bytes that a GPU receives in a step under ZeRO-3, to have all weights."""
    tokens_per_second: float
    """The tokens of all ranks; a prefix that rows share counts once."""
    num_steps: int | None = None
    """None if the rows are not on this machine."""
    training_seconds: float | None = None
    warmup_steps: int | None = None
    warmup_seconds: float | None = None
    second_copy: SecondCopy | None = None
    """What helps if gathering from other nodes takes longer than computing."""


class MemoryReport(Document):
    """The whole plan."""

    name: str
    method: str
    num_gpus: int
    on_cpu: bool = False
    """Whether the ranks compute on CPUs, so that sizes are those of host memory."""
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
    time: PlannedTime | None = None
    """None if no type of GPU was given. It is that of the configured setting if it fits, and else
    that of the cheapest one."""
