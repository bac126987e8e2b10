"""The warm-up as a graph of stateless Ray tasks (paper section 3.2).

    shard 0 ──┐ module by module        ┌─> reduce q_proj ─┐
    shard 1 ──┼─────────────────────────┼─> reduce k_proj ─┼─> table ─> select
    shard N ──┘ (streams of gradients)  └─> reduce v_proj ─┘

Shards stream their modules out one by one and leave their processes; each reduce adds N sums in the
shards' order and makes the module's rows of the table. The driver passes references on and fetches
none of it. A lost task is simply run again: every task is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Stage
from smt_ray.cluster.board import announce
from smt_ray.cluster.resources import ProcessResources
from smt_ray.data.cache import FILE as TOKENS
from smt_ray.imports import large_imports
from smt_ray.methods.blocks import Preflight
from smt_ray.stages.plan import RunPlan

if TYPE_CHECKING:
    from smt_ray.smt.selection import Selection

TABLE, SELECTION = "score_table.safetensors", "selection.safetensors"
PROGRESS = "warm-up"


def warmup_job(plan: RunPlan, preflight: Preflight, resources: ProcessResources) -> dict[str, Any]:
    """Everything a shard and the table need, as plain values."""
    config, warmup = plan.config, plan.config.warmup
    assert plan.warmup is not None
    return {
        "storage": plan.storage.root,
        "tokens": plan.tokens.path(TOKENS),
        "table": plan.warmup.path(TABLE),
        "model": plan.model,
        "num_threads": resources.num_threads,
        "device": resources.device,
        "num_devices": max(1, resources.num_gpus),
        "num_steps": warmup.num_steps,
        "num_shards": warmup.num_shards,
        "target_modules": warmup.target_modules,
        "reduction": warmup.reduction,
        "accumulate_on": warmup.accumulate_on,
        "table_block_size": preflight.table_block_size,
        "num_base_parameters": preflight.num_parameters,
        "batch_size": config.training.batch_size,
        "seed": config.seed,
        "batching": config.batching.mode,
        "max_tokens": config.batching.max_tokens,
        "train_on_inputs": config.data.train_on_inputs,
        "provenance": {"model": plan.identity, "warmup": plan.warmup.name},
    }


def run_warmup(
    job: dict[str, Any], modules: list[str], resources: ProcessResources, board: Any
) -> dict[str, Any]:
    """Runs the graph up to the table.

    Args:
        job: Plain values: model, tokens, plan, settings, storage; see :func:`_shard`.
        modules: Names of the eligible modules, in the model's order.
        resources: Of one shard.
        board: The progress actor.

    Returns:
        The table's summary, once it is in the storage.
    """
    # A worker that is lost is retried; what our own code raises would only be raised again.
    shard = ray.remote(max_calls=1)(_shard).options(
        **resources.options(), num_returns="streaming", max_retries=3,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(resources.num_threads)}},
    )  # fmt: skip
    # Zero CPUs, or they would starve behind shards that hold them all.
    reduce = ray.remote(_reduce).options(num_cpus=0)
    streams = [shard.remote(job, index, board) for index in range(job["num_shards"])]
    # Each reduce in flight is a process that imports torch: as many as there are CPUs, no more.
    most_in_flight = max(1, int(ray.cluster_resources().get("CPU", 1)))
    rows: list[ray.ObjectRef] = []
    in_flight: list[ray.ObjectRef] = []
    for _ in modules:
        if len(in_flight) == most_in_flight:
            _, in_flight = ray.wait(in_flight, fetch_local=False)
        parts = [next(stream, None) for stream in streams]
        if None in parts:  # a shard failed: its error was the stream's last item
            ray.get(rows)
            raise AssertionError("a shard's stream ended without an error")
        rows.append(reduce.remote(job["table_block_size"], *parts))
        in_flight.append(rows[-1])
    summary: dict[str, Any] = ray.get(ray.remote(_table).options(num_cpus=0).remote(job, *rows))
    return summary


def selection_job(plan: RunPlan, stage: Stage, preflight: Preflight) -> dict[str, Any]:
    """Everything the selection needs, as plain values.

    Args:
        plan: The run's.
        stage: The selection's.
        preflight: Of the model; used where no gradient decides, and so no table is needed.
    """
    job: dict[str, Any] = {
        "storage": plan.storage.root,
        "folder": stage.folder,
        "selection": plan.config.selection.semantic(),
    }
    if plan.config.selection.needs_gradients:
        assert plan.warmup is not None
        return {**job, "table": plan.warmup.path(TABLE)}
    return {
        **job,
        "table": None,
        "model": plan.starting_model,
        "shapes": preflight.shapes,
        "multiple_of": preflight.table_block_size,
        "num_base_parameters": preflight.num_parameters,
        "seed": plan.config.seed,
        "provenance": {"model": plan.identity},
    }


def launch_selection(job: dict[str, Any]) -> ray.ObjectRef:
    """Starts the graph's last task, on a table that is in the storage.

    Args:
        job: Plain values; see :func:`_select`.

    Returns:
        A reference to the selection's summary.
    """
    # A process that has loaded a model leaves; without one a reduce's, which has torch, will do.
    calls = 0 if job["table"] else 1
    return ray.remote(max_calls=calls)(_select).options(num_cpus=0).remote(job)


def _shard(job: dict[str, Any], index: int, board: Any) -> Iterator[dict[str, Any]]:
    """One shard's work; yields its modules."""
    with large_imports():
        import torch

        from smt_ray.artifacts.storage import Storage
        from smt_ray.data.batches import StepPlan
        from smt_ray.data.cache import load_tokens
        from smt_ray.models.load import import_transformers, load_model
        from smt_ray.tracking.records import make_record
        from smt_ray.warmup.shard import shard_steps, stream_shard

        import_transformers()
    announce(board, PROGRESS, index)
    torch.set_num_threads(job["num_threads"])
    device = torch.device(job["device"])
    with Storage(job["storage"]).local(job["tokens"]) as file:
        encoded = load_tokens(file, "training")
    assert encoded is not None
    steps = shard_steps(job["num_steps"], job["num_shards"], index)
    done = iter(range(1, len(steps) + 1))

    def report(step: int, loss: float) -> None:
        board.update.remote(PROGRESS, index, next(done), f"loss {loss:.3f}")
        board.measure.remote(PROGRESS, make_record(step + 1, {"warmup/loss": loss}))

    by_statistics = job["reduction"] == "score"
    yield from stream_shard(
        load_model(job["model"], device, job["num_devices"]),
        encoded,
        StepPlan(len(encoded), job["batch_size"], job["seed"]),
        steps,
        target_modules=job["target_modules"],
        batching=job["batching"],
        max_tokens=job["max_tokens"],
        train_on_inputs=job["train_on_inputs"],
        device=device,
        accumulate_on=job["accumulate_on"],
        statistics_block_size=job["table_block_size"] if by_statistics else None,
        with_weights=index == 0,
        on_step=report,
    )


def _reduce(block_size: int, *parts: dict[str, Any]) -> dict[str, Any]:
    """Adds the shards' parts of one module."""
    with large_imports():
        from smt_ray.warmup.shard import reduce_module

    return reduce_module(parts, block_size)


def _table(job: dict[str, Any], *rows: dict[str, Any]) -> dict[str, Any]:
    """Puts the modules' rows together and stores the table."""
    import torch

    from smt_ray.artifacts.storage import Storage
    from smt_ray.smt.scores import ScoreTable

    table = ScoreTable(
        block_size=job["table_block_size"],
        statistics={row["module"]: torch.tensor(row["statistics"]) for row in rows},
        num_base_parameters=job["num_base_parameters"],
        num_steps=job["num_steps"],
        provenance=job["provenance"],
    )
    with scratch_folder() as scratch:
        table.save(scratch / TABLE)
        Storage(job["storage"]).put_file(scratch / TABLE, job["table"])
    return {
        "num_modules": len(rows),
        "block_size": table.block_size,
        "num_steps": table.num_steps,
        "num_shards": job["num_shards"],
    }


def _select(job: dict[str, Any]) -> dict[str, Any]:
    """Chooses blocks, from the stored table if any; stores the selection and its picture."""
    with large_imports():
        from smt_ray.artifacts.storage import Storage
        from smt_ray.reporting.charts.run import selection_figure
        from smt_ray.smt.scores import ScoreTable
        from smt_ray.smt.selection import select_blocks

    storage = Storage(job["storage"])
    if job["table"] is None:
        selection = _select_control(job)
    else:
        with storage.local(job["table"]) as file:
            selection = select_blocks(ScoreTable.load(file), **job["selection"])
    totals = {
        name: module.shape[0] * module.shape[1] // selection.block_size**2
        for name, module in selection.modules.items()
    }
    # Of no run: others share the selection, and whoever makes it makes the same bytes.
    title = (
        f"chosen by {selection.score}, scope {selection.scope}\n"
        f"{selection.num_blocks} blocks of {selection.block_size} x {selection.block_size},"
        f" {selection.budget:.2%} of the base model"
    )
    with scratch_folder() as scratch:
        selection.save(scratch / SELECTION)
        selection_figure(selection.counts(), totals, scratch / "selection.png", title)
        for file in (SELECTION, "selection.png"):
            storage.put_file(scratch / file, f"{job['folder']}/{file}")
    return {
        "num_blocks": selection.num_blocks,
        "block_size": selection.block_size,
        "num_trainable": selection.num_trainable,
        "num_base": selection.num_base_parameters,
        "budget": selection.budget,
        "margin": selection.margin,
        "score": selection.score,
        "scope": selection.scope,
        "counts": selection.counts(),
        "summary": selection.summary(),
    }


def _select_control(job: dict[str, Any]) -> Selection:
    """Chooses blocks by chance or by the weights that training starts from."""
    from smt_ray.models.load import load_model
    from smt_ray.smt.controls import magnitude_scores, random_scores
    from smt_ray.smt.grid import resolve_block_size
    from smt_ray.smt.modules import match_modules
    from smt_ray.smt.selection import select_by_scores

    settings = dict(job["selection"])
    shapes, targets = job["shapes"], settings.pop("target_modules")
    if targets is not None:
        shapes = {name: shapes[name] for name in match_modules(shapes, targets)}
    size = resolve_block_size(shapes, settings.pop("block_size"), multiple_of=job["multiple_of"])
    if settings["score"] == "random":
        scores = random_scores(shapes, size, job["seed"])
    else:
        model = load_model(job["model"])
        weights = {name: model.get_parameter(f"{name}.weight") for name in shapes}
        scores = magnitude_scores(weights, size)
    return select_by_scores(
        scores, block_size=size, num_base_parameters=job["num_base_parameters"],
        provenance=job["provenance"], **settings,
    )  # fmt: skip
