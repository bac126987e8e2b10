"""The table of ``smt-ray plan``: what a run needs on each GPU, and whether it fits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from smt_ray.documents.memory import (
    MemoryReport,
    PlannedBatch,
    PlannedBlocks,
    SettingMemory,
    StageMemory,
    Verdict,
    WarmupMemory,
)
from smt_ray.reporting.text.console import facts_grid, rich_table, show
from smt_ray.reporting.text.plan_time import time_facts
from smt_ray.reporting.text.run import trainable_text
from smt_ray.reporting.text.tables import Cells
from smt_ray.reporting.text.values import MISSING, blocks_label, blocks_text, method_facts

if TYPE_CHECKING:
    from rich.console import Console

_GIB, _MIB, _KIB = 1024**3, 1024**2, 1024
_HEAD = (
    "training", "weights", "gradients", "optimizer", "buffers", "activations", "total",
    "checkpointed", "total",
)  # fmt: skip
_LEGEND = (
    "activations: the peak of the forward and backward pass of one micro-batch;"
    " buffers: of reductions, of gathered weights and of the optimizer's step"
)


def print_memory(report: MemoryReport) -> None:
    """Prints the table; without colours or wrapping if the output is not a terminal."""
    show(partial(_render, report))


def format_bytes(size: int) -> str:
    """A size for people.

    >>> [format_bytes(size) for size in (512, 3 * 2**20, 24 * 2**30)]
    ['0.5 KiB', '3.0 MiB', '24.0 GiB']
    """
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / _KIB:.1f} KiB"


def stage_cells(report: MemoryReport) -> Cells:
    """The parts of the memory, in one row for each ZeRO stage."""
    return Cells(_HEAD, tuple(map(_stage_row, report.stages)), len(_HEAD) - 1)


def facts(report: MemoryReport) -> list[tuple[str, str]]:
    """(name, text) pairs: what is trained, the micro-batch, the warm-up, and the verdict."""
    batch, warmup, verdict = report.batch, report.warmup, report.verdict
    pairs = [
        ("model", f"{report.num_parameters:,} parameters, {report.dtype}"),
        *(_selected(report.blocks) if report.blocks else ()),
        *method_facts(report.method_settings),
        ("trainable", trainable_text(report.trainable)),
        ("adapter", format_bytes(report.adapter_bytes)),
        ("micro-batch", _batch(batch)),
        ("fallback", f"{batch.mode}: {batch.fallback}" if batch.fallback else ""),
        ("warm-up", _warmup(warmup) if warmup else ""),
        ("traffic", _traffic(warmup) if warmup else ""),
        ("host", _host(report)),
        ("as configured", f"{_setting(report.configured)}{_fits(verdict)}"),
        ("cheapest", _cheapest(verdict) if verdict else ""),
        *(time_facts(report.time) if report.time else ()),
    ]
    return [(name, text) for name, text in pairs if text]


def _render(report: MemoryReport, console: Console) -> None:
    from rich.text import Text

    unit = "CPU rank" if report.on_cpu else "GPU"
    number = f"{report.num_gpus} {unit}{'s' if report.num_gpus > 1 else ''}"
    title = f"{report.name} ({report.method}) on {number}"
    console.print(Text(title, style="bold"))
    console.print(rich_table(stage_cells(report)))
    console.print(Text(f"  sizes per {unit}; {_LEGEND}\n", style="dim"))
    console.print(facts_grid(facts(report)))


def _stage_row(stage: StageMemory) -> tuple[str, ...]:
    sizes = (
        stage.weights, stage.gradients, stage.optimizer, stage.buffers, stage.activations,
        stage.total, stage.checkpointed_activations, stage.checkpointed_total,
    )  # fmt: skip
    texts = (MISSING if size is None else format_bytes(size) for size in sizes)
    return (f"ZeRO {stage.zero_stage}", *texts)


def _selected(blocks: PlannedBlocks) -> list[tuple[str, str]]:
    number = f"{blocks.num_chosen:,} of {blocks.num_eligible:,} eligible"
    modules = f"{' + '.join(blocks.projections)} of {blocks.num_modules:,} modules"
    shape, size = blocks.block_shape, blocks.block_size
    return [(blocks_label(shape), f"{blocks_text(number, shape, size)}, in {modules}")]


def _batch(batch: PlannedBatch) -> str:
    return (
        f"{batch.num_tokens:,} tokens {batch.mode}, longest row {batch.row_length:,},"
        f" {batch.num_targets:,} positions with a target ({batch.source})"
    )


def _warmup(warmup: WarmupMemory) -> str:
    parts = {
        "weights": warmup.weights,
        "activations": warmup.activations,
        "full fine-tuning": warmup.full_training,
    }
    sizes = {part: size for part, size in parts.items() if size is not None}
    without_sums = sum(sizes.values())
    listed = ", ".join(f"{part} {format_bytes(size)}" for part, size in sizes.items())
    with_sums, without = format_bytes(without_sums + warmup.sums), format_bytes(without_sums)
    sums = f"sums {format_bytes(warmup.sums)}"
    if not warmup.sums:
        text = f"{without} per GPU: {listed}"
    elif warmup.accumulate_on == "host":
        text = f"{without} per GPU: {listed}; {sums} on the host, {with_sums} with them on the GPU"
    else:
        text = f"{with_sums} per GPU: {listed}, {sums}; {without} with the sums on the host"
    return text if warmup.mode != "base" else f"{text}; {_places(warmup)}"


def _places(warmup: WarmupMemory) -> str:
    if warmup.processes == "ranks":
        return f"on {warmup.num_senders} rank{'s' if warmup.num_senders > 1 else ''}"
    shards = f"{warmup.num_shards} shard{'s' if warmup.num_shards > 1 else ''}"
    gpus = f" of {warmup.gpus_per_place} GPUs" if warmup.gpus_per_place > 1 else ""
    number = warmup.num_senders
    return f"{shards} on {number} place{'s' if number > 1 else ''}{gpus}"


def _traffic(warmup: WarmupMemory) -> str:
    number = warmup.num_senders
    sizes = [
        f"{format_bytes(size)} with warmup.reduction={kind}"
        for kind, size in warmup.traffic.items()
    ]
    is_rank = warmup.mode == "trained" or warmup.processes == "ranks"
    sender = "rank" if is_rank else "place"
    return f"{', '.join(sizes)}; total of {number} {sender}{'s' if number > 1 else ''}"


def _host(report: MemoryReport) -> str:
    """What the host holds for each GPU in training, and for each place of the warm-up."""
    parts, warmup = [], report.warmup
    if report.host_bytes:
        size = format_bytes(report.host_bytes)
        parts.append(f"{size} per GPU, for the original values of what is trained")
    if warmup and warmup.store_bytes:
        size = format_bytes(warmup.store_bytes)
        on_host = warmup.accumulate_on == "host"
        sums = format_bytes(warmup.sums * warmup.gpus_per_place) if on_host else ""
        parts.append(
            f"in the warm-up up to {size} of Ray's object store for each place of the node"
            + (f", and {sums} of sums" if sums else "")
        )
    return "; ".join(parts)


def _fits(verdict: Verdict | None) -> str:
    if verdict is None:
        return "; --gpu-memory says whether it fits"
    gpu, reserved = format_bytes(verdict.gpu_memory), format_bytes(verdict.reserved)
    fits = "fits" if verdict.fits else "does not fit"
    return f": {fits} {gpu}, of which {reserved} is reserved for CUDA"


def _cheapest(verdict: Verdict) -> str:
    if verdict.cheapest is None:
        smallest = _setting(verdict.smallest)
        return f"none fits; the smallest is {smallest}; {_remedy(verdict.smallest)}"
    return _setting(verdict.cheapest)


def _remedy(smallest: SettingMemory) -> str:
    """What helps where no setting fits."""
    if smallest.warmup_bytes > smallest.training_bytes and smallest.gpus_per_shard:
        return (
            "a shard of the warm-up needs one node: use larger GPUs, or plan it on the ranks of"
            " training (warmup.processes=ranks warmup.num_shards=1)"
        )
    return "use more or larger GPUs"


def _setting(setting: SettingMemory) -> str:
    keys = [
        f"deepspeed.zero_stage={setting.zero_stage}",
        "training.activation_checkpointing=true" if setting.checkpointing else "",
        f"batching.max_tokens={setting.max_tokens}",
        f"warmup.accumulate_on={setting.accumulate_on}" if setting.accumulate_on else "",
        f"warmup.gpus_per_shard={setting.gpus_per_shard}" if _spreads(setting) else "",
    ]
    needs = [f"training {format_bytes(setting.training_bytes)}"]
    if setting.warmup_bytes:
        needs.append(f"warm-up {format_bytes(setting.warmup_bytes)}")
    return f"{' '.join(filter(None, keys))} ({', '.join(needs)})"


def _spreads(setting: SettingMemory) -> bool:
    return (setting.gpus_per_shard or 1) > 1
