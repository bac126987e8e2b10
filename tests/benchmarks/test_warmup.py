"""A claim about the benchmark of the warm-up, which runs in a tiny setting and writes JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import warmup
from tests.benchmarks.answers import assert_spread, read

TINY_WARMUP = (
    "--rounds 1 --steps 2 --short-steps 1 --shards 2 --threads 1"
    " data.max_rows=32 training.batch_size=4"
)


@pytest.mark.slow
def test_warmup_measures_every_case_through_ray(cluster: None, tmp_path: Path) -> None:
    warmup.main([*TINY_WARMUP.split(), "--json", str(tmp_path / "warmup.json")])
    summary = read(tmp_path / "warmup.json", "warmup")["summary"]
    assert len(summary) == 3
    first, *_ = summary.values()
    assert first["overlap"] == 1
    for one in summary.values():
        assert_spread(one["seconds"])
        assert one["peak_bytes_of_a_shard"]["min"] > 0
        assert 0 <= one["overlap"] <= 1
    gradient, score = (summary[f"{how}, 2 shards, 2 steps"] for how in ("gradient", "score"))
    assert score["bytes_moved"]["median"] < gradient["bytes_moved"]["median"] / 10
