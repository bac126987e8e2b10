"""The warm-up as a graph of stateless Ray tasks (paper section 3.2), or on the ranks of training.

    place 0: shards 0, P, 2P ... ──> sum of q_proj, k_proj, v_proj, ...
                                          │       │       │
    place 1: shards 1, P + 1 ...  ──> +   v   +   v   +   v
                                          │       │       │
    place P - 1: ...              ──> +   v   +   v   +   v  ──> reduce each module ──> table

A place is the room for one process. Shards that take turns on a place add into one sum. Then each
place streams its modules one by one, waiting until they are taken, and sums are added on their way
from place to place (:mod:`smt_ray.stages.chain`). So Ray's object store holds about four modules of
a place, however many shards and modules there are. Each reduction makes the module's rows of the
table. The driver passes references on and fetches none of them. A lost task can run again, because
every task is a function of its arguments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup

from smt_ray.artifacts.layout import KEPT_VALUES, RECORDS, SCORE_TABLE, TOKENS
from smt_ray.artifacts.stages import Finished
from smt_ray.cluster.nodes import cluster_nodes, rank_resources
from smt_ray.cluster.resources import GpusEach, ProcessResources, count_places, plan_processes
from smt_ray.cluster.waiting import is_whole, reserved
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.stages import WarmupSummary
from smt_ray.reporting.text.progress import progress, say
from smt_ray.stages.chain import Adders, at, reduce_sums
from smt_ray.stages.checkpoints import forget_checkpoints
from smt_ray.stages.jobs import WarmupJob
from smt_ray.stages.rank_warmup import run_ranks
from smt_ray.stages.warmup_tasks import (
    PROGRESS,
    compute_shards,
    reduce_sum,
    store_table,
)
from smt_ray.training.metrics_log import write_records
from smt_ray.warmup.parts import ShardPart

if TYPE_CHECKING:  # workers import this file, but not the modules that only the driver needs
    from smt_ray.methods.blocks import EligibleBlocks
    from smt_ray.stages.plan import RunPlan


def make_warmup(
    plan: RunPlan, blocks: EligibleBlocks, probe: Probe, board: Any
) -> Finished[WarmupSummary]:
    """Runs the warm-up and stores the score table.

    Raises:
        UserError: Bad input, a loss that is not finite, or no place for a shard in time.
    """
    began, config, stage = time.monotonic(), plan.config, plan.warmup
    assert stage is not None
    job = warmup_job(plan, blocks, probe, process_resources(config))
    ranks = None
    with progress(PROGRESS, config.warmup.num_steps, lambda: ray.get(board.done.remote(PROGRESS))):
        if config.warmup.processes == "ranks":
            ranks = run_ranks(job, stage, board)
        else:
            run_graph(job, board)
    write_records(plan.storage, stage.path(RECORDS), ray.get(board.measured.remote(PROGRESS)))
    summary = WarmupSummary(
        num_modules=len(blocks.shapes),
        block_size=blocks.table_block_size,
        num_steps=config.warmup.num_steps,
        num_shards=config.warmup.num_shards,
        attempts=_attempts(board) if ranks is None else {},
        ranks=ranks,
    )
    kept = plan.storage.list_files(job.kept) if job.kept else []
    files = [RECORDS, *(f"{KEPT_VALUES}/{file}" for file in kept)]
    if config.warmup_keeps != "activations":
        files.append(SCORE_TABLE)
    finished = stage.publish(files, summary, time.monotonic() - began)
    forget_checkpoints(stage)
    return finished


def process_resources(config: RunConfig) -> ProcessResources:
    """The resources of each shard or rank. Shards can take turns, so one place is enough for them.

    Raises:
        UserError: The cluster cannot hold a shard, or all ranks.
    """
    if config.warmup.processes == "ranks":
        return rank_resources(config)
    return plan_processes(
        config.resources, 1, cluster_nodes(), "warmup.num_shards",
        GpusEach(config.warmup.gpus_per_shard, "warmup.gpus_per_shard"),
    )  # fmt: skip


def warmup_job(
    plan: RunPlan, blocks: EligibleBlocks, probe: Probe, resources: ProcessResources
) -> WarmupJob:
    """The job of a run's warm-up."""
    assert plan.warmup is not None
    return WarmupJob(
        config=plan.config,
        model=plan.model,
        blocks=blocks,
        probe=probe,
        storage=plan.storage.root,
        tokens=plan.tokens.path(TOKENS),
        table=plan.warmup.path(SCORE_TABLE),
        kept=plan.warmup.path(KEPT_VALUES) if plan.config.warmup_keeps else None,
        resources=resources,
        provenance={"model": dict(plan.identity), "warmup": plan.warmup.name},
    )


def _attempts(board: Any) -> dict[str, int]:
    """The number of starts of each shard; repeated starts are printed."""
    starts: dict[int, list[int]] = ray.get(board.starts.remote(PROGRESS))
    for shard, processes in sorted(starts.items()):
        if len(processes) > 1:
            say(f"warmup: shard {shard} was lost and run again ({len(processes)} attempts)")
    return {str(shard): len(processes) for shard, processes in sorted(starts.items())}


def run_graph(job: WarmupJob, board: Any) -> None:
    """Runs the graph; returns once the table is in the storage.

    Raises:
        UserError: Bad input, a loss that is not finite, or no place in time.
    """
    number, timeout_s = num_places(job), job.config.resources.wait_timeout_s
    with reserved("warmup", number, job.resources, timeout_s) as places:
        streams = _start_places(job, board, places, number)
        adders = Adders(places, number, ShardPart.plus, reduce_sum, job)
        rows = reduce_sums(streams, len(job.blocks.shapes), adders, lambda: is_whole(places))
        ray.get(ray.remote(num_cpus=0)(store_table).remote(job, *rows))


def num_places(job: WarmupJob) -> int:
    """The number of places for shards on the present nodes, at most one for each shard."""
    there = count_places(cluster_nodes(), job.resources)
    return max(1, min(job.config.warmup.num_shards, there))


def _start_places(
    job: WarmupJob, board: Any, places: PlacementGroup, number: int
) -> list[Iterator[ray.ObjectRef[Any]]]:
    threads = {"OMP_NUM_THREADS": str(job.resources.num_threads)}
    # Ray retries lost workers but not errors, which our code would only raise again.
    shards = ray.remote(max_calls=1)(compute_shards)
    options: dict[str, Any] = {
        **job.resources.options(),
        "num_returns": "streaming",
        "max_retries": 3,
        "runtime_env": {"env_vars": threads},
        "_generator_backpressure_num_objects": 1,
    }
    streams: list[Any] = [
        shards.options(**options, **at(places, place)).remote(job, place, number, board)
        for place in range(number)
    ]
    return streams
