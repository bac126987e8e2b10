"""The rows of docs/planning.md: models of 7B to 235B, planned by ``smt-ray plan``.

    python -m benchmarks.plans

Each row is a plan of a file in configs/plan on some GPUs. A test compares the rows with the page.
"""

from __future__ import annotations

from benchmarks.measuring import ROOT, markdown_table
from smt_ray.config.load import load_config
from smt_ray.documents.memory import MemoryReport, SettingMemory
from smt_ray.planning.report import plan_memory
from smt_ray.planning.time.cluster import Cluster
from smt_ray.planning.time.gpus import find_gpu_type
from smt_ray.reporting.text.plan_time import format_seconds

CASES = (
    ("llama_2_7b", "rtx-4090", 1),
    ("llama_2_7b", "a100-80gb", 1),
    ("qwen3_32b", "h100-80gb", 8),
    ("llama_3_70b", "h100-80gb", 16),
    ("llama_3_70b", "h100-80gb", 64),
    ("qwen3_235b_a22b", "h100-80gb", 64),
)
_HEAD = (
    "config", "GPUs", "setting", "training GiB", "warm-up GiB", "s a step", "gathering s",
    "tokens/s", "warm-up of 100 steps", "10,000 steps",
)  # fmt: skip


def plan(config: str, gpu_type: str, num_gpus: int) -> MemoryReport:
    """The plan of a file in configs/plan."""
    cluster = Cluster(find_gpu_type(gpu_type), num_gpus)
    return plan_memory(load_config(ROOT / "configs" / "plan" / f"{config}.yaml"), cluster=cluster)


def row(config: str, gpu_type: str, num_gpus: int) -> list[str]:
    """The cells of a plan: those of the configured setting if it fits, else of the cheapest."""
    report = plan(config, gpu_type, num_gpus)
    found, time = report.verdict, report.time
    assert found is not None
    assert time is not None
    assert found.cheapest is not None
    setting = report.configured if found.fits else found.cheapest
    assert time.training_seconds is not None
    assert time.warmup_seconds is not None
    return [
        config,
        f"{num_gpus} x {gpu_type}",
        _setting(setting),
        f"{setting.training_bytes / 2**30:.1f}",
        f"{setting.warmup_bytes / 2**30:.1f}",
        f"{time.step_seconds:.2f}",
        f"{time.gather_seconds:.2f}",
        f"{time.tokens_per_second:,.0f}",
        format_seconds(time.warmup_seconds),
        format_seconds(time.training_seconds),
    ]


def _setting(setting: SettingMemory) -> str:
    parts = [f"ZeRO {setting.zero_stage}"]
    if setting.checkpointing:
        parts.append("recomputed")
    if setting.accumulate_on == "host":
        parts.append("sums on the host")
    if (setting.gpus_per_shard or 1) > 1:
        parts.append(f"{setting.gpus_per_shard} GPUs a shard")
    return ", ".join(parts)


def table() -> str:
    """The table, in Markdown."""
    return markdown_table(list(_HEAD), [row(*case) for case in CASES])


if __name__ == "__main__":
    print(table())
