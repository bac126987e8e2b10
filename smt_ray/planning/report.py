"""The plan of a run: whether it fits its GPUs, how much each part takes, and how long it takes.

A plan needs neither the weights of the model nor a cluster.
"""

from __future__ import annotations

from smt_ray.config.model import ModelConfig
from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import (
    MemoryReport,
    PlannedBatch,
    PlannedBlocks,
    StageMemory,
    Verdict,
)
from smt_ray.documents.module_names import parse_module_name
from smt_ray.planning.needs import RunNeeds
from smt_ray.planning.prepared import PreparedModel
from smt_ray.planning.settings import (
    Setting,
    cheapest,
    configured_setting,
    settings_by_cost,
    shard_sizes,
)
from smt_ray.planning.time.cluster import DEFAULT_GPUS_PER_NODE, Cluster
from smt_ray.planning.time.estimate import plan_time
from smt_ray.planning.training import TrainingNeeds

RESERVED_BYTES = 2**30
"""The bytes that are left to CUDA's context, the workspaces of kernels and the allocator."""


def plan_memory(
    config: RunConfig,
    num_gpus: int | None = None,
    gpu_memory: int | None = None,
    cluster: Cluster | None = None,
) -> MemoryReport:
    """Plans the memory of a run and, on a known type of GPU, its time.

    Args:
        num_gpus: The number of training ranks, each with one GPU; by default the config's.
        gpu_memory: The bytes of each GPU; None for those of the cluster, or for no verdict.
        cluster: The GPUs; None for no times. Its ``num_gpus`` is the number of training ranks.

    Raises:
        UserError: The model cannot be found, or it does not allow what the config asks for.
    """
    if cluster is not None:
        num_gpus = cluster.num_gpus
        gpu_memory = gpu_memory or cluster.gpu.memory
    needs = RunNeeds(config, num_gpus or config.resources.num_workers)
    setting, prepared = configured_setting(config), needs.training.prepared
    verdict = found = None
    if gpu_memory is not None:
        gpus_per_node = cluster.gpus_per_node if cluster else DEFAULT_GPUS_PER_NODE
        verdict, found = _verdict(config, needs, gpu_memory, gpus_per_node)
    chosen = setting if verdict is None or verdict.fits else found or setting
    return MemoryReport(
        name=config.name,
        method=config.method,
        num_gpus=needs.training.num_gpus,
        on_cpu=config.resources.use_gpu is False and gpu_memory is None,
        num_parameters=prepared.counts.num_base,
        dtype=_join_dtype(config.model),
        trainable=prepared.counts.summary(),
        blocks=_blocks(prepared),
        method_settings=prepared.method_settings,
        # The host keeps the original values of what is trained, to remove an adapter.
        host_bytes=prepared.adapter_bytes if prepared.blocks else None,
        adapter_bytes=prepared.adapter_bytes,
        batch=_batch(needs.training, setting.max_tokens),
        stages=[
            _stage(needs.training, stage, setting.max_tokens)
            for stage in needs.training.zero_stages
        ],
        warmup=needs.warmup.report(setting) if needs.warmup else None,
        configured=needs.with_setting(setting),
        verdict=verdict,
        time=plan_time(config, needs, chosen, cluster, _available(gpu_memory)) if cluster else None,
    )


def _available(gpu_memory: int | None) -> int | None:
    return None if gpu_memory is None else gpu_memory - RESERVED_BYTES


def _join_dtype(model: ModelConfig) -> str:
    quantised = "" if model.quantization == "none" else f", linears in {model.quantization}"
    return f"{model.dtype}{quantised}"


def _blocks(prepared: PreparedModel) -> PlannedBlocks | None:
    blocks = prepared.blocks
    if blocks is None:
        return None
    size, is_column = blocks.block_size, blocks.shape == "column"
    names = [name for ranking in blocks.rankings for name in ranking.modules]
    num_elements = sum(rows * columns for rows, columns in (blocks.shapes[name] for name in names))
    num_columns = sum(blocks.shapes[name][1] for name in names)
    return PlannedBlocks(
        num_chosen=prepared.num_places if is_column else prepared.counts.num_trainable // size**2,
        num_eligible=num_columns if is_column else num_elements // size**2,
        block_size=size,
        block_shape=blocks.shape,
        num_modules=len(names),
        projections=list(dict.fromkeys(parse_module_name(name)[1] for name in names)),
    )


def _batch(training: TrainingNeeds, max_tokens: int) -> PlannedBatch:
    num_tokens = training.rows.largest(max_tokens)
    return PlannedBatch(
        mode=training.mode.mode,
        fallback=training.mode.fallback,
        num_tokens=num_tokens,
        row_length=training.rows.row_length,
        num_targets=round(training.rows.target_share * num_tokens),
        source=training.rows.source,
    )


def _stage(training: TrainingNeeds, stage: int, max_tokens: int) -> StageMemory:
    rank = training.rank(stage)
    kept = training.activations(max_tokens, checkpointing=False)
    held = rank.weights + rank.gradients + rank.optimizer
    recomputed = None
    if training.can_recompute:
        recomputed = training.activations(max_tokens, checkpointing=True)
    return StageMemory(
        zero_stage=stage,
        weights=rank.weights,
        gradients=rank.gradients,
        optimizer=rank.optimizer,
        buffers=rank.peak(kept) - held - kept,
        activations=kept,
        total=rank.peak(kept),
        checkpointed_activations=recomputed,
        checkpointed_total=None if recomputed is None else rank.peak(recomputed),
    )


def _verdict(
    config: RunConfig, needs: RunNeeds, gpu_memory: int, gpus_per_node: int
) -> tuple[Verdict, Setting | None]:
    """The verdict, and the cheapest setting that fits."""
    available, configured = gpu_memory - RESERVED_BYTES, configured_setting(config)
    settings = [
        configured,
        *settings_by_cost(
            configured.max_tokens,
            needs.training.rows.row_length,
            needs.training.num_gpus,
            can_recompute=needs.training.can_recompute,
            zero_stages=needs.training.zero_stages,
            gpus_per_shard=shard_sizes(config, needs.training.num_gpus, gpus_per_node),
        ),
    ]
    found = cheapest(settings[1:], needs.bytes_with, available)
    fits = needs.bytes_with(configured) <= available
    if found is None and fits:  # the configured setting is none of those that are tried
        found = configured
    verdict = Verdict(
        gpu_memory=gpu_memory,
        reserved=RESERVED_BYTES,
        fits=fits,
        cheapest=needs.with_setting(found) if found else None,
        smallest=needs.with_setting(min(settings, key=needs.bytes_with)),
    )
    return verdict, found
