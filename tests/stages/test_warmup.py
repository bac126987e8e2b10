"""Claims about the warm-up's graph of tasks, on a real cluster."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smt_ray.config.run import RunConfig
from smt_ray.probe.probe import probe_skeleton
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.selection import Selection, select_blocks

pytestmark = pytest.mark.slow

TABLE = "score_table.safetensors"


@pytest.fixture(scope="module")
def reference(whole: Any) -> ScoreTable:
    """The table of the undisturbed run, which has two shards."""
    return ScoreTable.load(whole.stage("warmup") / TABLE)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every value that this process fetches from Ray."""
    from ray._private.worker import Worker

    sizes: list[int] = []
    original = Worker.get_objects

    def get_objects(self: Worker, *args: Any, **options: Any) -> Any:
        found = original(self, *args, **options)
        sizes.append(len(pickle.dumps(found[0])))
        return found

    monkeypatch.setattr(Worker, "get_objects", get_objects)
    return sizes


def clear_cut(table: ScoreTable) -> Selection:
    """The selection of 40 to 80 blocks with the largest margin."""
    found = [select_blocks(table, block_size=16, num_blocks=n) for n in range(40, 81)]
    return max(found, key=lambda selection: selection.margin or 0)


def same_table(found: ScoreTable, expected: ScoreTable) -> bool:
    return all(torch.equal(found.statistics[n], s) for n, s in expected.statistics.items())


@pytest.mark.parametrize("num_shards", [1, 4])
def test_any_number_of_shards_gives_the_same_table_and_the_driver_fetches_no_gradient(
    whole: Any, cluster: None, reference: ScoreTable, quick: Callable[..., RunConfig],
    fetched: list[int], num_shards: int,
) -> None:  # fmt: skip
    import ray

    from smt_ray.cluster.board import make_board
    from smt_ray.cluster.resources import ProcessResources
    from smt_ray.methods.blocks import check_blocks
    from smt_ray.models.load import load_skeleton
    from smt_ray.stages.plan import make_plan
    from smt_ray.stages.warmup import run_graph, warmup_job

    plan = make_plan(quick(whole.storage, f"warmup.num_shards={num_shards}"))
    skeleton = load_skeleton(plan.model)
    probe = probe_skeleton(skeleton)
    blocks = check_blocks(plan.config, skeleton, probe)
    # Of four shards, two take turns on each of two CPUs.
    resources = ProcessResources(num_cpus=1, num_gpus=0, accelerator_type=None)
    job = replace(warmup_job(plan, blocks, probe, resources), table=f"scratch/{num_shards}/{TABLE}")
    board = make_board()
    fetched.clear()
    run_graph(job, board)
    assert len(ray.get(board.starts.remote("warm-up"))) == min(num_shards, 2)
    gradients = sum(4 * rows * columns for rows, columns in blocks.shapes.values())
    assert sum(fetched) < 4096 < gradients / 50
    table = ScoreTable.load(whole.storage / job.table)
    for name, sums in reference.statistics.items():
        torch.testing.assert_close(table.statistics[name], sums, rtol=1e-4, atol=1e-6)
        distance = (table.statistics[name] - sums).norm() / sums.norm()
        assert distance < 1e-5, name
    expected = clear_cut(reference)
    assert expected.margin is not None
    assert expected.margin > 1e-4
    chosen = select_blocks(table, block_size=16, num_blocks=expected.num_blocks)
    for name, module in expected.modules.items():
        assert torch.equal(chosen.modules[name].indices, module.indices), name


def test_a_killed_shard_runs_again_and_changes_nothing(
    whole: Any, cluster: None, reference: ScoreTable, quick: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:  # fmt: skip
    import ray

    from smt_ray.run.flow import Flow

    flow, killed = Flow(quick(tmp_path)), []

    def kill() -> None:
        """Kills shard 1 as soon as its process is known: its steps take less than a second."""
        while not killed:
            time.sleep(0.02)
            if flow.board is None:
                continue
            if pids := ray.get(flow.board.starts.remote("warm-up")).get(1):
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    flow.run("selection")
    watcher.join(timeout=5)
    pids = ray.get(flow.board.starts.remote("warm-up"))[1]
    assert killed == pids[:1]
    assert len(pids) == 2
    assert flow.plan.warmup.read().summary.attempts == {"0": 1, "1": 2}
    assert same_table(ScoreTable.load(Path(flow.plan.warmup.uri) / TABLE), reference)
    ours, theirs = (
        (stage / "selection.safetensors").read_bytes()
        for stage in (Path(flow.plan.selection.uri), whole.stage("selection"))
    )
    assert ours == theirs
