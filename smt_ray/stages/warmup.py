"""The warm-up as a graph of stateless Ray tasks (paper section 3.2).

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

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from smt_ray.artifacts.layout import KEPT_VALUES, RECORDS, SCORE_TABLE, TOKENS
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.cluster.board import announce
from smt_ray.cluster.nodes import cluster_nodes
from smt_ray.cluster.resources import GpusEach, ProcessResources, count_places, plan_processes
from smt_ray.cluster.waiting import is_whole, reserved
from smt_ray.config.run import RunConfig
from smt_ray.documents.probe import Probe
from smt_ray.documents.stages import WarmupSummary
from smt_ray.reporting.text.progress import progress, say
from smt_ray.stages.chain import Chain
from smt_ray.stages.jobs import WarmupJob
from smt_ray.training.metrics_log import write_records
from smt_ray.warmup.parts import ModuleStatistics, ShardPart

if TYPE_CHECKING:  # workers import this file, but not the modules that only the driver needs
    from torch import Tensor

    from smt_ray.methods.blocks import EligibleBlocks
    from smt_ray.stages.plan import RunPlan

_REDUCTIONS = 2  # at the same time for each place

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
    """Runs the graph; returns once the table is in the storage.

    Raises:
        UserError: Bad input, a loss that is not finite, or no place in time.
    """
    number, timeout_s = num_places(job), job.config.resources.wait_timeout_s
    with reserved("warmup", number, job.resources, timeout_s) as places:
        chain = Chain(
            _start_places(job, board, places, number),
            len(job.blocks.shapes),
            partial(_start_addition, places),
            lambda: is_whole(places),
        )
        # Zero CPUs: reductions would otherwise wait for shards that hold all CPUs.
        reduce = ray.remote(num_cpus=0)(_reduce)
        rows: list[ray.ObjectRef[Any]] = []
        running: list[ray.ObjectRef[Any]] = []
        for module, total in enumerate(chain):
            if len(running) == _REDUCTIONS * number:
                _, running = ray.wait(running, fetch_local=False)
            rows.append(reduce.options(**_at(places, module % number)).remote(job, total))
            running.append(rows[-1])
        ray.get(ray.remote(_table).options(num_cpus=0).remote(job, *rows))


def num_places(job: WarmupJob) -> int:
    """The number of places for shards on the present nodes, at most one for each shard."""
    there = count_places(cluster_nodes(), job.resources)
    return max(1, min(job.config.warmup.num_shards, there))


def _at(places: PlacementGroup, place: int) -> dict[str, Any]:
    """The options of a task that runs where a place is."""
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(places, place)}


def _start_addition(places: PlacementGroup, place: int, total: Any, part: Any) -> Any:
    add = ray.remote(num_cpus=0)(_add).options(**_at(places, place))
    return add.remote(total, part)


def _add(total: ShardPart, part: ShardPart) -> ShardPart:
    return total.plus(part)


def _start_places(
    job: WarmupJob, board: Any, places: PlacementGroup, number: int
) -> list[Iterator[ray.ObjectRef[Any]]]:
    threads = {"OMP_NUM_THREADS": str(job.resources.num_threads)}
    # Ray retries lost workers but not errors, which our code would only raise again.
    shards = ray.remote(max_calls=1)(_shards)
    options: dict[str, Any] = {
        **job.resources.options(),
        "num_returns": "streaming",
        "max_retries": 3,
        "runtime_env": {"env_vars": threads},
        "_generator_backpressure_num_objects": 1,
    }
    streams: list[Any] = [
        shards.options(**options, **_at(places, place)).remote(job, place, number, board)
        for place in range(number)
    ]
    return streams


def _shards(job: WarmupJob, place: int, num_places: int, board: Any) -> Iterator[ShardPart]:
    """The work of the shards of one place; yields the sums of their modules."""
    from smt_ray.models.load import import_transformers

    import_transformers()
    import torch

    from smt_ray.artifacts.storage import Storage
    from smt_ray.data.batches import StepPlan
    from smt_ray.data.encoding.stored import load_tokens
    from smt_ray.models.load import load_model
    from smt_ray.warmup.activations import stream_activations
    from smt_ray.warmup.shard import place_steps, stream_place

    announce(board, PROGRESS, place)
    config, warmup = job.config, job.config.warmup
    torch.set_num_threads(job.resources.num_threads)
    device = torch.device(job.resources.device)
    with Storage(job.storage).local(job.tokens) as file:
        encoded = load_tokens(file, "training")
    assert encoded is not None
    shards = place_steps(warmup.num_steps, warmup.num_shards, place, num_places)
    work: dict[str, Any] = {
        "model": load_model(job.model, device, max(1, job.resources.num_gpus)),
        "encoded": encoded,
        "plan": StepPlan(len(encoded), config.training.batch_size, config.seed),
        "modules": list(job.blocks.shapes),
        "train_on_inputs": config.data.train_on_inputs,
        "device": device,
        "on_step": _reporter(board, place),
    }
    if config.warmup_keeps == "activations":
        yield from stream_activations(**work, steps=[step for shard in shards for step in shard])
    else:
        is_last = place == num_places - 1  # so that weights are not passed on
        yield from stream_place(**work, shards=shards, **_gradient_options(job, is_last))


def _gradient_options(job: WarmupJob, with_weights: bool) -> dict[str, Any]:
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


def _reduce(job: WarmupJob, part: ShardPart) -> ModuleStatistics:
    """Makes the rows of one module from its sum, and stores the sum if it is needed later."""
    import torch

    from smt_ray.warmup.shard import reduce_module

    size = job.blocks.table_block_size
    if job.kept is None:
        return reduce_module(part, size)
    found = reduce_module(part, size, partial(_keep, job))
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
