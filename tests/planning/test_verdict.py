"""The table, the verdict and the suggestion of a plan agree, whatever the model and the GPUs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from smt_ray.config.load import apply_overrides
from smt_ray.config.run import RunConfig
from smt_ray.documents.memory import MemoryReport, SettingMemory
from smt_ray.planning.needs import RunNeeds
from smt_ray.planning.report import RESERVED_BYTES, plan_memory
from smt_ray.planning.time.cluster import Cluster
from smt_ray.planning.time.gpus import find_gpu_type
from smt_ray.reporting.text.memory import facts

METHODS = {
    "smt": ("selection.budget=0.05",),
    "small budget": ("selection.budget=0.01", "warmup.accumulate_on=host"),
    "full": ("method=full", "deepspeed.zero_stage=3"),
    "columns by inputs": ("selection={block_shape: column, budget: 0.05, score: activation}",),
    "trained": ("warmup.mode=trained", "training.activation_checkpointing=true"),
    "ranks": ("warmup.processes=ranks", "deepspeed.zero_stage=3", "model.dtype=bfloat16"),
    "shards": ("warmup={num_shards: 4, gpus_per_shard: 2}", "model.dtype=bfloat16"),
}
SHARES = (0.3, 0.7, 0.9999, 1.0, 4.0)


class Known:
    """Needs that were found before."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], RunNeeds] = {}

    def __call__(self, config: RunConfig, num_gpus: int) -> RunNeeds:
        key = (config.model_dump_json(), num_gpus)
        if key not in self._found:
            self._found[key] = RunNeeds(config, num_gpus)
        return self._found[key]


SMALL = ("model.architecture.num_hidden_layers=1", "batching.mode=one_row")


@pytest.fixture
def planned(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., MemoryReport]:
    """Makes plans; those of one method and number of GPUs share their dry runs."""
    monkeypatch.setattr("smt_ray.planning.report.RunNeeds", Known())
    configs = {method: small_config(*SMALL, *keys) for method, keys in METHODS.items()}

    def plan(method: str, num_gpus: int, share: float) -> MemoryReport:
        enough = plan_memory(configs[method], num_gpus).configured.bytes
        return plan_memory(configs[method], num_gpus, RESERVED_BYTES + int(share * enough))

    return plan


@pytest.mark.parametrize(("method", "num_gpus"), product(METHODS, (1, 4)))
def test_table_verdict_and_suggestion_agree(
    planned: Callable[..., MemoryReport], method: str, num_gpus: int
) -> None:
    for share in SHARES:
        report = planned(method, num_gpus, share)
        found, configured = report.verdict, report.configured
        assert found is not None
        available = found.gpu_memory - found.reserved
        assert found.fits == (share >= 1)
        assert found.fits == (configured.bytes <= available)
        assert configured.training_bytes == shown_training(report)
        assert configured.warmup_bytes == shown_warmup(report)
        # What fits is suggested, and what is suggested fits.
        assert not found.fits or found.cheapest is not None
        assert (found.cheapest is None) == (found.smallest.bytes > available)
        assert found.cheapest is None or found.cheapest.bytes <= available
        assert found.smallest.bytes <= configured.bytes
        texts = dict(facts(report))
        assert (": fits" in texts["as configured"]) == found.fits
        assert texts["cheapest"].startswith("none fits") == (found.cheapest is None)


def shown_training(report: MemoryReport) -> int:
    """The total of the table for the configured stage."""
    stage = report.stages[report.configured.zero_stage]
    total = stage.checkpointed_total if report.configured.checkpointing else stage.total
    assert total is not None
    return total


def shown_warmup(report: MemoryReport) -> int:
    """The sum of the parts of the warm-up that are shown for a GPU."""
    parts = report.warmup
    if parts is None:
        return 0
    sums = parts.sums if parts.accumulate_on == "device" else 0
    return sums + sum(part or 0 for part in (parts.weights, parts.activations, parts.full_training))


@pytest.mark.parametrize("method", ["smt", "shards"])
def test_a_suggestion_that_is_followed_fits(
    planned: Callable[..., MemoryReport], small_config: Callable[..., RunConfig], method: str
) -> None:
    report = planned(method, 4, 0.7)
    assert report.verdict is not None
    found = report.verdict.cheapest
    assert found is not None
    keys = keys_of(found)
    followed = plan_memory(
        small_config(*SMALL, *METHODS[method], *keys), 4, report.verdict.gpu_memory
    )
    assert followed.verdict is not None
    assert followed.verdict.fits
    assert followed.configured == found


def keys_of(setting: SettingMemory) -> list[str]:
    keys = [
        f"deepspeed.zero_stage={setting.zero_stage}",
        f"training.activation_checkpointing={setting.checkpointing}",
        f"batching.max_tokens={setting.max_tokens}",
    ]
    if setting.accumulate_on:
        keys.append(f"warmup.accumulate_on={setting.accumulate_on}")
    if setting.gpus_per_shard:
        keys.append(f"warmup.gpus_per_shard={setting.gpus_per_shard}")
    return keys


def test_a_model_that_one_gpu_does_not_hold_gets_more_gpus_for_a_shard(
    small_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More ranks partition the training, but a place of the warm-up holds the whole model."""
    monkeypatch.setattr("smt_ray.planning.memory._MAX_GATHERED", 0)  # as in a large model
    monkeypatch.setattr("smt_ray.planning.memory._PREFETCHED", 0)
    monkeypatch.setattr("smt_ray.planning.report.RunNeeds", Known())
    config = small_config("deepspeed.zero_stage=3", "batching.max_tokens=64", "data.max_length=9")
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"architecture": wide()})}
    )
    alone = plan_memory(config, 4)
    assert alone.warmup is not None
    assert alone.warmup.weights is not None
    half = RESERVED_BYTES + alone.configured.warmup_bytes * 6 // 10
    verdict = plan_memory(config, 4, half).verdict
    assert verdict is not None
    assert not verdict.fits
    assert verdict.cheapest is not None
    assert verdict.cheapest.gpus_per_shard == 2
    one_gpu_a_node = Cluster(find_gpu_type("l4"), 4, gpus_per_node=1)
    alone_again = plan_memory(config, 4, half, one_gpu_a_node)
    assert alone_again.verdict is not None
    assert alone_again.verdict.cheapest is None
    assert "a shard of the warm-up needs one node" in dict(facts(alone_again))["cheapest"]


def wide() -> dict[str, object]:
    values: dict[str, object] = apply_overrides(
        {"model_type": "llama", "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 2048},
        ["num_hidden_layers=4", "num_attention_heads=8", "num_key_value_heads=8"],
    )
    return values
