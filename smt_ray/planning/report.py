"""The memory plan of a run: whether it fits its GPUs, and how much each part takes.

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
from smt_ray.planning.settings import Setting, cheapest, configured_setting, settings_by_cost
from smt_ray.planning.training import TrainingNeeds

RESERVED_BYTES = 2**30
"""The bytes that are left to CUDA's context, the workspaces of kernels and the allocator."""


def plan_memory(
    config: RunConfig, num_gpus: int | None = None, gpu_memory: int | None = None
) -> MemoryReport:
    """Plans the memory of a run.

    Args:
        num_gpus: The number of training ranks, each with one GPU; by default the config's.
        gpu_memory: The bytes of each GPU; None for no verdict.

    Raises:
        UserError: The model cannot be found, or it does not allow what the config asks for.
    """
    needs = RunNeeds(config, num_gpus or config.resources.num_workers)
    setting, prepared = configured_setting(config), needs.training.prepared
    return MemoryReport(
        name=config.name,
        method=config.method,
        num_gpus=needs.training.num_gpus,
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
        verdict=None if gpu_memory is None else _verdict(needs, setting, gpu_memory),
    )


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


def _verdict(needs: RunNeeds, configured: Setting, gpu_memory: int) -> Verdict:
    available = gpu_memory - RESERVED_BYTES
    settings = list(
        settings_by_cost(
            configured.max_tokens,
            needs.training.rows.row_length,
            needs.training.num_gpus,
            can_recompute=needs.training.can_recompute,
            zero_stages=needs.training.zero_stages,
        )
    )
    found = cheapest(settings, needs.bytes_with, available)
    return Verdict(
        gpu_memory=gpu_memory,
        reserved=RESERVED_BYTES,
        fits=needs.bytes_with(configured) <= available,
        cheapest=needs.with_setting(found) if found else None,
        smallest=needs.with_setting(min(settings, key=needs.bytes_with)),
    )
