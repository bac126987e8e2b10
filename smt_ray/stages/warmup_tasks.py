"""What the processes of a warm-up do: the tasks of its graph, and what ranks do as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from smt_ray.artifacts.layout import SCORE_TABLE
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.cluster.board import announce
from smt_ray.stages.jobs import WarmupJob
from smt_ray.warmup.parts import ModuleStatistics, ShardPart

if TYPE_CHECKING:
    from torch import Tensor

PROGRESS = "warm-up"
"""The name of the warm-up on the progress board."""


def compute_shards(job: WarmupJob, place: int, num_places: int, board: Any) -> Iterator[ShardPart]:
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


def reduce_sum(job: WarmupJob, part: ShardPart) -> ModuleStatistics:
    """Makes the rows of one module from its sum, and stores the sum if it is needed later."""
    import torch

    from smt_ray.warmup.shard import reduce_module

    size = job.blocks.table_block_size
    if job.kept is None:
        return reduce_module(part, size)
    found = reduce_module(part, size, partial(keep_values, job))
    if job.config.warmup_keeps == "activations":
        _store_kept(job, found.module, torch.tensor(found.statistics))
    return found


def keep_values(job: WarmupJob, module: str, gradient: Tensor, weight: Tensor) -> None:
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


def store_table(job: WarmupJob, *rows: ModuleStatistics) -> None:
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
