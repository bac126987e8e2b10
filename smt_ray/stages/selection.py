"""The selection stage: one task, which reads what the warm-up left or needs no warm-up."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import ray

from smt_ray.artifacts.layout import KEPT_VALUES, SCORE_TABLE, SELECTION, SELECTION_PICTURE
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Finished
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import BlockShape
from smt_ray.documents.stages import SelectionSummary
from smt_ray.reporting.text.progress import say
from smt_ray.reporting.text.values import blocks_label, blocks_text
from smt_ray.stages.jobs import SelectionJob

if TYPE_CHECKING:  # workers import this file, but not the modules that only the driver needs
    from torch import Tensor

    from smt_ray.methods.blocks import EligibleBlocks
    from smt_ray.places.selection import PlaceSelection
    from smt_ray.smt.selection import Selection
    from smt_ray.stages.plan import RunPlan


def make_selection(plan: RunPlan, blocks: EligibleBlocks) -> Finished[SelectionSummary]:
    """Selects the blocks and stores them with their picture."""
    began, stage = time.monotonic(), plan.selection
    assert stage is not None
    job = selection_job(plan, blocks)
    # max_calls=1 ends the process after its task, which frees the memory of a loaded model.
    task = ray.remote(max_calls=0 if job.table else 1)(_select)
    summary: SelectionSummary = ray.get(task.options(num_cpus=0).remote(job))
    say(summary.text)
    return stage.publish([SELECTION, SELECTION_PICTURE], summary, time.monotonic() - began)


def selection_job(plan: RunPlan, blocks: EligibleBlocks) -> SelectionJob:
    """The job of a run's selection."""
    assert plan.selection is not None
    config, warmup = plan.config, plan.warmup
    by_gradients = config.selects_blocks and config.selection.needs_gradients
    from_table = by_gradients and not config.selects_columns
    return SelectionJob(
        config=config,
        model=plan.starting_model,
        storage=plan.storage.root,
        folder=plan.selection.folder,
        table=warmup.path(SCORE_TABLE) if warmup and from_table else None,
        kept=warmup.path(KEPT_VALUES) if warmup and config.warmup_keeps else None,
        blocks=None if from_table else blocks,
        provenance={"model": dict(plan.identity)},
    )


def _select(job: SelectionJob) -> SelectionSummary:
    """Selects elements from the stored gradients, or blocks, from the stored table if there is one.

    It is a task, so its heavy imports are its own.
    """
    from smt_ray.imports import large_imports

    with large_imports():
        from smt_ray.smt.scores import ScoreTable
        from smt_ray.smt.selection import select_blocks

    storage = Storage(job.storage)
    if job.blocks is not None and job.blocks.shape != "square":
        return _select_places(job, job.blocks.shape)
    if job.table is None:
        selection = _select_control(job)
    else:
        with storage.local(job.table) as file:
            selection = select_blocks(ScoreTable.load(file), **job.config.selection.semantic())
    return _store(
        job, selection, num_blocks=selection.num_blocks, block_size=selection.block_size,
        block_shape="square", margin=selection.margin,
    )  # fmt: skip


def _select_places(job: SelectionJob, shape: BlockShape) -> SelectionSummary:
    """Selects elements or columns by what the warm-up kept of each module, or columns by chance."""
    selection = _select_elements(job) if shape == "element" else _select_columns(job)
    return _store(
        job, selection, num_blocks=selection.num_chosen, block_size=1, block_shape=shape,
        margin=None,
    )  # fmt: skip


def _select_elements(job: SelectionJob) -> PlaceSelection:
    from smt_ray.places.elements import select_elements

    assert job.blocks is not None
    (ranking,) = job.blocks.rankings
    return select_elements(
        partial(_kept, job),
        {name: job.blocks.shapes[name] for name in ranking.modules},
        ranking.num_blocks,
        num_base_parameters=job.blocks.num_parameters,
        scope=job.config.sift.scope,
        provenance=dict(job.provenance),
    )


def _select_columns(job: SelectionJob) -> PlaceSelection:
    from smt_ray.places.columns import column_scores, random_columns, select_columns

    assert job.blocks is not None
    settings = job.config.selection
    rankings = [(ranking.modules, ranking.num_blocks) for ranking in job.blocks.rankings]
    wanted = {name for names, _ in rankings for name in names}
    shapes = {name: shape for name, shape in job.blocks.shapes.items() if name in wanted}
    if settings.score == "random":
        scores = random_columns(shapes, job.config.seed)
    elif settings.score == "activation":
        scores = {name: _kept(job, name)[0] for name in shapes}
    else:
        scores = {
            name: column_scores(_kept(job, name), out_features, settings.score)
            for name, (out_features, _) in shapes.items()
        }
    return select_columns(
        scores, shapes, rankings, num_base_parameters=job.blocks.num_parameters,
        score=settings.score, scope=settings.scope, provenance=dict(job.provenance),
    )  # fmt: skip


def _kept(job: SelectionJob, module: str) -> Tensor:
    """What the warm-up kept of a module."""
    from smt_ray.places.kept import file_of, read_kept

    with Storage(job.storage).local(f"{job.kept}/{file_of(module)}") as file:
        return read_kept(file)


def _store(
    job: SelectionJob,
    selection: Selection | PlaceSelection,
    *,
    num_blocks: int,
    block_size: int,
    block_shape: BlockShape,
    margin: float | None,
) -> SelectionSummary:
    """Stores the selection and its picture; returns its summary."""
    summary = SelectionSummary(
        num_blocks=num_blocks,
        block_size=block_size,
        block_shape=block_shape,
        num_trainable=selection.num_trainable,
        num_base=selection.num_base_parameters,
        budget=selection.budget,
        margin=margin,
        score=selection.score,
        scope=selection.scope,
        counts=selection.counts(),
        text=selection.summary(),
    )
    _store_files(job, selection, summary)
    return summary


def _store_files(
    job: SelectionJob, selection: Selection | PlaceSelection, summary: SelectionSummary
) -> None:
    from smt_ray.reporting.charts.run import selection_figure

    shape, size = summary.block_shape, summary.block_size
    totals = {
        name: module.shape[1] * (1 if shape == "column" else module.shape[0]) // size**2
        for name, module in selection.modules.items()
    }
    # The title does not name the run, because runs share a selection and its picture.
    label = blocks_label(shape)
    title = (
        f"selected by {summary.score}, scope {summary.scope}\n"
        f"{blocks_text(f'{summary.num_blocks:,} {label}', shape, size)},"
        f" {summary.budget:.2%} of the base model"
    )
    storage = Storage(job.storage)
    with scratch_folder() as scratch:
        selection.save(scratch / SELECTION)
        selection_figure(summary.counts, totals, scratch / SELECTION_PICTURE, title, label)
        for file in (SELECTION, SELECTION_PICTURE):
            storage.put_file(scratch / file, f"{job.folder}/{file}")


def _select_control(job: SelectionJob) -> Selection:
    """Selects blocks at random, or by the weights that training starts from."""
    from smt_ray.methods.blocks import selectable
    from smt_ray.models.load import load_model
    from smt_ray.smt.controls import lift_scores, magnitude_scores, random_scores
    from smt_ray.smt.grid import resolve_block_size
    from smt_ray.smt.linears import dense_weight
    from smt_ray.smt.selection import select_by_scores

    assert job.blocks is not None
    settings = job.config.selection.semantic()
    rank = settings.pop("lift_rank", None)
    shapes = selectable(job.config.selection, job.blocks.shapes, "selection")
    for name in ("target_modules", "layers"):
        settings.pop(name, None)
    finest = job.blocks.table_block_size
    size = resolve_block_size(shapes, settings.pop("block_size"), multiple_of=finest)
    if settings["score"] == "random":
        scores = random_scores(shapes, size, job.config.seed)
    else:
        model = load_model(job.model)
        weights = {name: dense_weight(model.get_submodule(name)) for name in shapes}
        scores = lift_scores(weights, size, rank) if rank else magnitude_scores(weights, size)
    return select_by_scores(
        scores, block_size=size, num_base_parameters=job.blocks.num_parameters,
        provenance=dict(job.provenance), **settings,
    )  # fmt: skip
