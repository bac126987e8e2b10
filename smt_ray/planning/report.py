"""Whether a run fits its GPUs and how much memory each part takes, without weights or a cluster."""

from __future__ import annotations

from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import (
    MemoryReport,
    PlannedBatch,
    PlannedBlocks,
    SettingMemory,
    StageMemory,
    Verdict,
    WarmupMemory,
)
from smt_ray.documents.module_names import parse_module_name
from smt_ray.planning.needs import MemoryNeeds
from smt_ray.planning.settings import Setting, cheapest, settings_by_cost

RESERVED_BYTES = 2**30
"""Left to CUDA's context, the workspaces of kernels and the slack of the allocator."""

_FP32 = 4
_STATISTICS_BYTES = 4 * 8  # of a block: four sums in float64


def plan_memory(
    config: RunConfig, num_gpus: int | None = None, gpu_memory: int | None = None
) -> MemoryReport:
    """What a run needs on each GPU.

    Args:
        config: The configuration of the run.
        num_gpus: The number of training ranks; by default the config's.
        gpu_memory: The bytes of each GPU; None for no verdict.

    Raises:
        UserError: The model cannot be found, or does not allow what the config asks for.
    """
    needs = MemoryNeeds(config, num_gpus or config.resources.num_workers)
    setting = Setting(
        config.deepspeed.zero_stage,
        config.training.activation_checkpointing,
        config.batching.max_tokens,
        config.warmup.accumulate_on,
    )
    configured = _needed(needs, setting)
    adapter_bytes = needs.value_bytes * needs.counts.num_trainable
    return MemoryReport(
        name=config.name,
        method=config.method,
        num_gpus=needs.num_gpus,
        num_parameters=needs.counts.num_base,
        dtype=config.model.dtype,
        trainable=needs.counts.summary(),
        blocks=_blocks(needs),
        method_settings=needs.settings.describe() if needs.settings else {},
        # The original values of the blocks are kept on the host, to take an adapter off again.
        host_bytes=adapter_bytes if needs.blocks else None,
        adapter_bytes=adapter_bytes,
        batch=_batch(needs),
        stages=[_stage(needs, stage) for stage in range(4)],
        warmup=_warmup(needs, setting),
        configured=configured,
        verdict=None if gpu_memory is None else _verdict(needs, gpu_memory, configured.bytes),
    )


def _blocks(needs: MemoryNeeds) -> PlannedBlocks | None:
    blocks = needs.blocks
    if blocks is None:
        return None
    size = blocks.block_size
    names = [name for ranking in blocks.rankings for name in ranking.modules]
    num_elements = sum(rows * columns for rows, columns in (blocks.shapes[name] for name in names))
    return PlannedBlocks(
        num_chosen=needs.counts.num_trainable // size**2,
        num_eligible=num_elements // size**2,
        block_size=size,
        num_modules=len(names),
        projections=list(dict.fromkeys(parse_module_name(name)[1] for name in names)),
    )


def _batch(needs: MemoryNeeds) -> PlannedBatch:
    num_tokens = needs.rows.largest(needs.config.batching.max_tokens)
    return PlannedBatch(
        mode=needs.mode.mode,
        fallback=needs.mode.fallback,
        num_tokens=num_tokens,
        row_length=needs.rows.row_length,
        num_targets=round(needs.rows.target_share * num_tokens),
        source=needs.rows.source,
    )


def _stage(needs: MemoryNeeds, stage: int) -> StageMemory:
    rank, max_tokens = needs.rank(stage), needs.config.batching.max_tokens
    kept = needs.activations(max_tokens, checkpointing=False)
    held = rank.weights + rank.gradients + rank.optimizer
    recomputed = None
    if needs.can_recompute:
        recomputed = needs.activations(max_tokens, checkpointing=True)
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


def _warmup(needs: MemoryNeeds, setting: Setting) -> WarmupMemory | None:
    if needs.blocks is None or not needs.config.has_warmup:
        return None
    warmup, sums = needs.config.warmup, needs.sum_bytes
    if needs.full_training is not None:
        return WarmupMemory(
            mode=warmup.mode,
            accumulate_on=warmup.accumulate_on,
            sums=sums,
            full_training=needs.full_training.training_bytes(setting),
            num_senders=needs.num_gpus,
            # At the end ranks add their sums to the first's; each step reduces as training does.
            traffic={"gradient": (needs.num_gpus - 1) * sums},
        )
    eligible = sums // _FP32
    num_finest = eligible // needs.blocks.table_block_size**2
    # One shard sends the weights too, for the saliency.
    gradients = warmup.num_shards * sums + needs.value_bytes * eligible
    return WarmupMemory(
        mode=warmup.mode,
        accumulate_on=warmup.accumulate_on,
        sums=sums,
        weights=needs.value_bytes * needs.counts.num_base,
        activations=needs.warmup_activations(setting.max_tokens),
        num_senders=warmup.num_shards,
        traffic={
            "gradient": gradients,
            "score": warmup.num_shards * _STATISTICS_BYTES * num_finest,
        },
    )


def _verdict(needs: MemoryNeeds, gpu_memory: int, configured: int) -> Verdict:
    available = gpu_memory - RESERVED_BYTES
    settings = list(
        settings_by_cost(
            needs.config.batching.max_tokens,
            needs.rows.row_length,
            needs.num_gpus,
            can_recompute=needs.can_recompute,
        )
    )
    found = cheapest(settings, needs.bytes_of, available)
    return Verdict(
        gpu_memory=gpu_memory,
        reserved=RESERVED_BYTES,
        fits=configured <= available,
        cheapest=_needed(needs, found) if found else None,
        smallest=_needed(needs, min(settings, key=needs.bytes_of)),
    )


def _needed(needs: MemoryNeeds, setting: Setting) -> SettingMemory:
    return SettingMemory(
        zero_stage=setting.zero_stage,
        checkpointing=setting.checkpointing,
        max_tokens=setting.max_tokens,
        accumulate_on=setting.accumulate_on if needs.config.has_warmup else None,
        training_bytes=needs.training_bytes(setting),
        warmup_bytes=needs.warmup_bytes(setting),
        bytes=needs.bytes_of(setting),
    )
