"""Claims about a warm-up on the ranks of training, through Ray Train."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.smt.scores import ScoreTable

pytestmark = pytest.mark.slow

TABLE = "score_table.safetensors"


def test_a_killed_rank_resumes_and_ranks_make_the_table_of_shards(
    whole: Any,
    cluster: None,
    quick: Callable[..., RunConfig],
    stages_of: Callable[[Sequence[str]], Path],
) -> None:
    import ray

    from smt_ray.run.flow import Flow

    config = quick(
        stages_of(["tokens"]), "warmup.processes=ranks", "warmup.num_shards=1",
        "resources.num_workers=2", "deepspeed.zero_stage=3", "training.checkpoint_every_steps=4",
        "training.activation_checkpointing=true",
    )  # fmt: skip
    flow, killed = Flow(config), []
    checkpoints = Path(flow.plan.warmup.uri) / "checkpoints"

    def kill() -> None:
        """Kills rank 0 once its first checkpoint is complete, as the second one begins."""
        deadline = time.monotonic() + 200
        while not any(int(p.name.split("-")[1]) >= 8 for p in checkpoints.glob("step-*")):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        killed.append(ray.get(flow.board.starts.remote("warm-up"))[0][0])
        os.kill(killed[0], signal.SIGKILL)

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    flow.run("selection")
    watcher.join(timeout=5)
    assert killed
    summary = flow.plan.warmup.read().summary
    assert (summary.ranks.num_ranks, summary.ranks.zero_stage) == (2, 3)
    assert 0 < summary.ranks.resumed_from < config.warmup.num_steps
    assert not checkpoints.exists()
    lines = (Path(flow.plan.warmup.uri) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))
    found = ScoreTable.load(Path(flow.plan.warmup.uri) / TABLE)
    expected = ScoreTable.load(whole.stage("warmup") / TABLE)
    assert found.statistics.keys() == expected.statistics.keys()
    for name, sums in expected.statistics.items():
        assert (found.statistics[name] - sums).norm() < 1e-5 * sums.norm(), name
