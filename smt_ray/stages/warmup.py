"""The warm-up as a graph of stateless Ray tasks (paper section 3.2).

    shard 0 ──┐ module by module        ┌─> reduce q_proj ─┐
    shard 1 ──┼─────────────────────────┼─> reduce k_proj ─┼─> table
    shard N ──┘ (streams of gradients)  └─> reduce v_proj ─┘

Shards stream their modules one by one, and their processes end. Each reduction adds N sums in the
order of the shards and makes the module's rows of the table. The driver passes references on and
fetches none of them. A lost task can run again, because every task is a function of its arguments.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ray

from smt_ray.artifacts.layout import KEPT_VALUES, RECORDS, SCORE_TABLE, TOKENS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.cluster.board import announce
from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import GpusEach, ProcessResources, plan_processes
from smt_ray.cluster.waiting import wait_for_place
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.stages import WarmupSummary
from smt_ray.reporting.text.progress import progress, say
from smt_ray.stages.jobs import WarmupJob
from smt_ray.training.metrics_log import write_records
from smt_ray.warmup.parts import ModuleStatistics, ShardPart

if TYPE_CHECKING:  # workers import this file, but not the modules that only the driver needs
    from torch import Tensor

    from smt_ray.methods.blocks import EligibleBlocks
    from smt_ray.stages.plan import RunPlan

PROGRESS = "warm-up"
"""The name of the warm-up on the progress board."""


def make_warmup(
    plan: RunPlan, blocks: EligibleBlocks, probe: Probe, board: Any
) -> Finished[WarmupSummary]:
    """Runs the graph and stores the score table.

    Raises:
        UserError: Bad input, a loss that is not finite, or no place for a shard in time.
    """
    began, config, stage = time.monotonic(), plan.config, plan.warmup
    assert stage is not None
    resources = shard_resources(config)
    wait_for_place("warmup", 1, resources, config.resources.wait_timeout_s)
    job = warmup_job(plan, blocks, probe, resources)
    with progress(PROGRESS, config.warmup.num_steps, lambda: ray.get(board.done.remote(PROGRESS))):
        run_graph(job, board)
    write_records(plan.storage, stage.path(RECORDS), ray.get(board.measured.remote(PROGRESS)))
    summary = WarmupSummary(
        num_modules=len(blocks.shapes),
        block_size=blocks.table_block_size,
        num_steps=config.warmup.num_steps,
        num_shards=config.warmup.num_shards,
        attempts=_attempts(board),
    )
    kept = plan.storage.list_files(job.kept) if job.kept else []
    files = [RECORDS, *(f"{KEPT_VALUES}/{file}" for file in kept)]
    if config.warmup_keeps != "activations":
        files.append(SCORE_TABLE)
    return stage.publish(files, summary, time.monotonic() - began)


def shard_resources(config: RunConfig) -> ProcessResources:
    """The resources of each shard. Shards can run one after another, so one place is enough.

    Raises:
        UserError: The cluster cannot hold a shard.
    """
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
    """Runs the graph; returns once the table is in the storage."""
    streams = _start_shards(job, board)
    # Zero CPUs: reductions would otherwise wait for shards that hold all CPUs.
    reduce = ray.remote(_reduce).options(num_cpus=0)
    # Each running reduction is a process that imports torch, so at most one runs for each CPU.
    most_running = max(1, int(sum(node.get("CPU", 0.0) for node in cluster_nodes())))
    rows: list[ray.ObjectRef[Any]] = []
    running: list[ray.ObjectRef[Any]] = []
    for _ in job.blocks.shapes:
        if len(running) == most_running:
            _, running = ray.wait(running, fetch_local=False)
        parts = [next(stream, None) for stream in streams]
        if None in parts:  # a shard failed: its error was the last item of its stream
            ray.get(rows)
            raise AssertionError("a shard's stream ended without an error")
        rows.append(reduce.remote(job, *parts))
        running.append(rows[-1])
    ray.get(ray.remote(_table).options(num_cpus=0).remote(job, *rows))


def _start_shards(job: WarmupJob, board: Any) -> list[Iterator[ray.ObjectRef[Any]]]:
    threads = {"OMP_NUM_THREADS": str(job.resources.num_threads)}
    # Ray retries lost workers but not errors, which our code would only raise again.
    shard = ray.remote(max_calls=1)(_shard).options(
        **job.resources.options(), num_returns="streaming", max_retries=3,
        runtime_env={"env_vars": threads},
    )  # fmt: skip
    streams: list[Any] = [
        shard.remote(job, index, board) for index in range(job.config.warmup.num_shards)
    ]
    return streams


def _shard(job: WarmupJob, index: int, board: Any) -> Iterator[ShardPart]:
    """The work of one shard; yields its modules."""
    from smt_ray.models.load import import_transformers

    import_transformers()
    import torch

    from smt_ray.artifacts.storage import Storage
    from smt_ray.data.batches import StepPlan
    from smt_ray.data.encoding.stored import load_tokens
    from smt_ray.models.load import load_model
    from smt_ray.warmup.activations import stream_activations
    from smt_ray.warmup.shard import shard_steps, stream_shard

    announce(board, PROGRESS, index)
    config, warmup = job.config, job.config.warmup
    torch.set_num_threads(job.resources.num_threads)
    device = torch.device(job.resources.device)
    with Storage(job.storage).local(job.tokens) as file:
        encoded = load_tokens(file, "training")
    assert encoded is not None
    work: dict[str, Any] = {
        "model": load_model(job.model, device, max(1, job.resources.num_gpus)),
        "encoded": encoded,
        "plan": StepPlan(len(encoded), config.training.batch_size, config.seed),
        "steps": shard_steps(warmup.num_steps, warmup.num_shards, index),
        "modules": list(job.blocks.shapes),
        "train_on_inputs": config.data.train_on_inputs,
        "device": device,
        "on_step": _reporter(board, index),
    }
    if config.warmup_keeps == "activations":
        yield from stream_activations(**work)
    else:
        yield from stream_shard(**work, **_gradient_options(job, with_weights=index == 0))


def _gradient_options(job: WarmupJob, *, with_weights: bool) -> dict[str, Any]:
    """The options of :func:`smt_ray.warmup.shard.stream_shard` that only gradients need."""
    config, size = job.config, job.blocks.table_block_size
    return {
        "batching": config.batching.mode,
        "probe": job.probe,
        "max_tokens": config.batching.max_tokens,
        "accumulate_on": config.warmup.accumulate_on,
        "statistics_block_size": size if config.warmup.reduction == "score" else None,
        "step_block_size": size if config.sums_of_steps else None,
        "with_weights": with_weights,
    }


def _reporter(board: Any, index: int) -> Callable[[int, float], None]:
    """A function that reports every finished step of a shard to the board."""
    from smt_ray.tracking.records import make_record

    num_done = itertools.count(1)

    def report(step: int, loss: float) -> None:
        board.update.remote(PROGRESS, index, next(num_done), f"loss {loss:.3f}")
        board.measure.remote(PROGRESS, make_record(step + 1, {"warmup/loss": loss}))

    return report


def _reduce(job: WarmupJob, *parts: ShardPart) -> ModuleStatistics:
    """Adds the parts of one module, and stores the sum if it is needed later."""
    from functools import partial

    import torch

    from smt_ray.warmup.shard import reduce_module

    size = job.blocks.table_block_size
    if job.kept is None:
        return reduce_module(parts, size)
    found = reduce_module(parts, size, partial(_keep, job))
    if job.config.warmup_keeps == "activations":
        _store_kept(job, found.module, torch.tensor(found.statistics))
    return found


def _keep(job: WarmupJob, module: str, gradient: Tensor, weight: Tensor) -> None:
    """Stores the gradient of a module, or the statistics of its columns."""
    from smt_ray.places.columns import column_statistics

    is_column = job.config.warmup_keeps == "columns"
    _store_kept(job, module, column_statistics(gradient, weight) if is_column else gradient)


def _store_kept(job: WarmupJob, module: str, values: Tensor) -> None:
    from smt_ray.artifacts.storage import Storage
    from smt_ray.places.kept import file_of, write_kept

    with scratch_folder() as scratch:
        local = write_kept(values, module, scratch)
        Storage(job.storage).put_file(local, f"{job.kept}/{file_of(module)}")


def _table(job: WarmupJob, *rows: ModuleStatistics) -> None:
    """Puts the rows of all modules together and stores the table, if there are gradients."""
    if job.config.warmup_keeps == "activations":
        return
    import torch

    from smt_ray.artifacts.storage import Storage
    from smt_ray.smt.scores import ScoreTable

    table = ScoreTable(
        block_size=job.blocks.table_block_size,
        statistics={row.module: torch.tensor(row.statistics) for row in rows},
        num_base_parameters=job.blocks.num_parameters,
        num_steps=job.config.warmup.num_steps,
        provenance=dict(job.provenance),
    )
    with scratch_folder() as scratch:
        table.save(scratch / SCORE_TABLE)
        Storage(job.storage).put_file(scratch / SCORE_TABLE, job.table)
