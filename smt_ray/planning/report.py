"""Whether a run fits its GPUs, and what of it takes how much: without weights or a cluster."""

from __future__ import annotations

from typing import Any

from smt_ray.config.run import RunConfig
from smt_ray.planning.needs import MemoryNeeds
from smt_ray.planning.settings import Setting, cheapest, settings_by_cost

RESERVED_BYTES = 2**30
"""Left to CUDA's context, kernels' workspaces and the allocator's slack."""

_FP32 = 4
_STATISTICS_BYTES = 4 * 8  # of a block: four sums in float64


def plan_memory(
    config: RunConfig, num_gpus: int | None = None, gpu_memory: int | None = None
) -> dict[str, Any]:
    """What a run needs, as :mod:`smt_ray.reporting.text.memory` shows it.

    Args:
        config: Of the run.
        num_gpus: Training ranks; by default the config's.
        gpu_memory: Bytes of each GPU; None for no verdict.

    Raises:
        UserError: The model cannot be found, or does not allow what the config asks for.
    """
    needs = MemoryNeeds(config, num_gpus or config.resources.num_workers)
    configured = Setting(
        config.deepspeed.zero_stage,
        config.training.activation_checkpointing,
        config.batching.max_tokens,
        config.warmup.accumulate_on,
    )
    report = {
        "name": config.name,
        "method": config.method,
        "num_gpus": needs.num_gpus,
        "model": {"num_parameters": needs.counts.num_base, "dtype": config.model.dtype},
        "trainable": needs.counts.summary(),
        **_choice(needs),
        "adapter_bytes": needs.value_bytes * needs.counts.num_trainable,
        "batch": _batch(needs),
        "stages": [_stage(needs, stage) for stage in range(4)],
        "warmup": _warmup(needs, configured),
        "configured": _needed(needs, configured),
    }
    if gpu_memory is not None:
        report |= _verdict(needs, gpu_memory, report["configured"]["bytes"])
    return report


def _choice(needs: MemoryNeeds) -> dict[str, Any]:
    """What the method chooses: blocks, or a rank."""
    preflight = needs.preflight
    if preflight is None:
        return {"lora": needs.lora} if needs.lora else {}
    size = preflight.block_size
    names = [name for names, _ in preflight.groups for name in names]
    num_elements = sum(rows * columns for rows, columns in map(preflight.shapes.get, names))  # type: ignore[misc]
    return {
        "blocks": {
            "num_chosen": needs.counts.num_trainable // size**2,
            "num_eligible": num_elements // size**2,
            "block_size": size,
            "num_modules": len(names),
            "projections": list(dict.fromkeys(name.rpartition(".")[2] for name in names)),
        },
        # To take an adapter off again: SparseLinear.original_blocks.
        "host_bytes": needs.value_bytes * needs.counts.num_trainable,
    }


def _batch(needs: MemoryNeeds) -> dict[str, Any]:
    mode, fallback = needs.mode.mode, needs.mode.fallback
    num_tokens = needs.rows.largest(needs.config.batching.max_tokens)
    return {
        "mode": mode,
        "fallback": fallback,
        "num_tokens": num_tokens,
        "row_length": needs.rows.row_length,
        "num_targets": round(needs.rows.target_share * num_tokens),
        "source": needs.rows.source,
    }


def _stage(needs: MemoryNeeds, stage: int) -> dict[str, Any]:
    """The parts under a ZeRO stage; they add up to the totals."""
    rank, max_tokens = needs.rank(stage), needs.config.batching.max_tokens
    kept = needs.activations(max_tokens, checkpointing=False)
    held = rank.weights + rank.gradients + rank.optimizer
    parts = {
        "zero_stage": stage,
        "weights": rank.weights,
        "gradients": rank.gradients,
        "optimizer": rank.optimizer,
        "buffers": rank.peak(kept) - held - kept,
        "activations": kept,
        "total": rank.peak(kept),
    }
    if needs.can_recompute:
        anew = needs.activations(max_tokens, checkpointing=True)
        parts |= {"checkpointed_activations": anew, "checkpointed_total": rank.peak(anew)}
    return parts


def _warmup(needs: MemoryNeeds, setting: Setting) -> dict[str, Any] | None:
    """The warm-up's memory on its GPU, and the bytes that its shards or ranks send in all."""
    if not needs.has_warmup:
        return None
    assert needs.preflight is not None
    warmup, eligible = needs.config.warmup, needs.sum_bytes // _FP32
    common = {"mode": warmup.mode, "accumulate_on": warmup.accumulate_on, "sums": needs.sum_bytes}
    if needs.full_training is not None:
        bytes_of_training = needs.full_training.training_bytes(setting)
        # At the end ranks add their sums to the first's; each step's reduction is training's.
        moved = {"gradient": (needs.num_gpus - 1) * needs.sum_bytes}
        senders = {"num_senders": needs.num_gpus, "moved": moved}
        return {**common, **senders, "full fine-tuning": bytes_of_training}
    num_finest = eligible // needs.preflight.table_block_size**2
    return {
        **common,
        "num_senders": warmup.num_shards,
        "weights": needs.value_bytes * needs.counts.num_base,
        "activations": needs.warmup_activations(setting.max_tokens),
        "moved": {
            # One shard sends the weights too, for the saliency.
            "gradient": warmup.num_shards * needs.sum_bytes + needs.value_bytes * eligible,
            "score": warmup.num_shards * _STATISTICS_BYTES * num_finest,
        },
    }


def _verdict(needs: MemoryNeeds, gpu_memory: int, configured: int) -> dict[str, Any]:
    """Whether the config fits, and the cheapest setting that does, or the smallest there is."""
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
    return {
        "gpu_memory": gpu_memory,
        "reserved": RESERVED_BYTES,
        "fits": configured <= available,
        "cheapest": _needed(needs, found) if found else None,
        "smallest": _needed(needs, min(settings, key=needs.bytes_of)),
    }


def _needed(needs: MemoryNeeds, setting: Setting) -> dict[str, Any]:
    """A setting and what it needs."""
    return {
        "zero_stage": setting.zero_stage,
        "checkpointing": setting.checkpointing,
        "max_tokens": setting.max_tokens,
        "accumulate_on": setting.accumulate_on if needs.has_warmup else None,
        "training_bytes": needs.training_bytes(setting),
        "warmup_bytes": needs.warmup_bytes(setting),
        "bytes": needs.bytes_of(setting),
    }
