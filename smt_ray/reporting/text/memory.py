"""The table that ``smt-ray plan`` prints: what a run needs on each GPU, and whether it fits.

The dict it reads is :func:`smt_ray.planning.report.plan_memory`'s; sizes are bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

from smt_ray.reporting.text.console import Cells, facts_grid, rich_table, show

if TYPE_CHECKING:
    from rich.console import Console

Report = Mapping[str, Any]

_GIB, _MIB, _KIB = 1024**3, 1024**2, 1024
_COLUMNS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "buffers": "buffers",
    "activations": "activations",
    "total": "total",
    "checkpointed_activations": "checkpointed",
    "checkpointed_total": "total",
}
_LEGEND = (
    "per GPU; activations of one micro-batch, and the most that its backward needs at once;"
    " buffers: of reductions, of gathered weights and of the optimizer's step"
)


def format_bytes(size: int) -> str:
    """A size for people.

    >>> [format_bytes(size) for size in (512, 3 * 2**20, 24 * 2**30)]
    ['0.5 KiB', '3.0 MiB', '24.0 GiB']
    """
    for unit, name in ((_GIB, "GiB"), (_MIB, "MiB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / _KIB:.1f} KiB"


def stage_cells(report: Report) -> Cells:
    """One row a ZeRO stage."""
    rows = [
        (f"ZeRO {stage['zero_stage']}", *(_size(stage.get(key)) for key in _COLUMNS))
        for stage in report["stages"]
    ]
    return Cells(("training", *_COLUMNS.values()), tuple(rows), len(_COLUMNS))


def facts(report: Report) -> list[tuple[str, str]]:
    """What is trained, on what, and what it comes to: (what, text) pairs."""
    model, batch = report["model"], report["batch"]
    pairs = [
        ("model", f"{model['num_parameters']:,} parameters, {model['dtype']}"),
        ("blocks", _blocks(report.get("blocks"))),
        ("factors", f"rank {report['lora']['rank']}" if "lora" in report else ""),
        ("trainable", _trainable(report["trainable"])),
        ("adapter", format_bytes(report["adapter_bytes"])),
        ("micro-batch", _batch(batch)),
        ("not as asked", _fallback(batch)),
        ("warm-up", _warmup(report.get("warmup"))),
        ("it moves", _moved(report.get("warmup"))),
        ("host", _host(report.get("host_bytes"))),
        ("as configured", _configured(report)),
        ("cheapest", _cheapest(report)),
    ]
    return [(what, text) for what, text in pairs if text]


def print_memory(report: Report, file: TextIO | None = None) -> None:
    """Prints the table; plain text without colours or wrapping where ``file`` is no terminal."""
    show(partial(_render, report), file or sys.stdout)


def _render(report: Report, console: Console) -> None:
    from rich.text import Text

    number = report["num_gpus"]
    title = f"{report['name']} ({report['method']}) on {number} GPU{'s' if number > 1 else ''}"
    console.print(Text(title, style="bold"))
    console.print(rich_table(stage_cells(report)))
    console.print(Text(f"  {_LEGEND}\n", style="dim"))
    console.print(facts_grid(facts(report)))


def _size(size: int | None) -> str:
    return "-" if size is None else format_bytes(size)


def _blocks(blocks: Report | None) -> str:
    if blocks is None:
        return ""
    size = blocks["block_size"]
    return (
        f"{blocks['num_chosen']:,} of {blocks['num_eligible']:,} eligible of {size} x {size},"
        f" in {' + '.join(blocks['projections'])} of {blocks['num_modules']:,} modules"
    )


def _trainable(counts: Report) -> str:
    return (
        f"{counts['num_trainable']:,} parameters, {counts['percent_of_base']:.3f}% of the base"
        f" model, {counts['percent_of_total']:.3f}% of base + adapter"
    )


def _batch(batch: Report) -> str:
    return (
        f"{batch['num_tokens']:,} tokens {batch['mode']}, the longest row {batch['row_length']:,},"
        f" {batch['num_targets']:,} positions with a target: {batch['source']}"
    )


def _fallback(batch: Report) -> str:
    return f"{batch['mode']}: {batch['fallback']}" if batch["fallback"] else ""


def _warmup(warmup: Report | None) -> str:
    if warmup is None:
        return ""
    others = ("weights", "activations", "full fine-tuning")
    parts = {part: warmup[part] for part in others if part in warmup}
    sums, rest = warmup["sums"], sum(parts.values())
    listed = ", ".join(f"{part} {format_bytes(size)}" for part, size in parts.items())
    return (
        f"{format_bytes(rest + sums)} a GPU: {listed}, sums {format_bytes(sums)};"
        f" {format_bytes(rest)} with the sums on the host"
    )


def _moved(warmup: Report | None) -> str:
    if warmup is None:
        return ""
    number = warmup["num_senders"]
    parts = [f"{format_bytes(size)} by reduction {kind}" for kind, size in warmup["moved"].items()]
    senders = f"{number} {'shard' if warmup['mode'] == 'base' else 'rank'}{'s' * (number > 1)}"
    return f"{', '.join(parts)}; from {senders} in all"


def _host(size: int | None) -> str:
    return f"{format_bytes(size)} a GPU, the blocks as they were" if size else ""


def _configured(report: Report) -> str:
    text = _setting(report["configured"])
    if "gpu_memory" not in report:
        return f"{text}; --gpu-memory says whether it fits"
    room = f"{format_bytes(report['gpu_memory'])} less {format_bytes(report['reserved'])} for CUDA"
    return f"{text}: {'fits' if report['fits'] else 'does not fit'} {room}"


def _cheapest(report: Report) -> str:
    if "gpu_memory" not in report:
        return ""
    if report["cheapest"] is None:
        least = _setting(report["smallest"])
        return f"none fits; the smallest is {least}: use more or larger GPUs"
    return _setting(report["cheapest"])


def _setting(setting: Report) -> str:
    keys = [
        f"deepspeed.zero_stage={setting['zero_stage']}",
        "training.activation_checkpointing=true" if setting["checkpointing"] else "",
        f"batching.max_tokens={setting['max_tokens']}",
        f"warmup.accumulate_on={setting['accumulate_on']}" if setting["accumulate_on"] else "",
    ]
    needs = [f"training {format_bytes(setting['training_bytes'])}"]
    if setting["warmup_bytes"]:
        needs.append(f"warm-up {format_bytes(setting['warmup_bytes'])}")
    return f"{' '.join(filter(None, keys))} ({', '.join(needs)})"
