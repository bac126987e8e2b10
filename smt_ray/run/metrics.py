"""The metrics of a run, collected only from its finished stages."""

from __future__ import annotations

from collections.abc import Mapping

from smt_ray.artifacts.layout import ADAPTER, REPORT
from smt_ray.artifacts.runs import RunFolder
from smt_ray.documents.lm_eval import LmEvalResult, LmEvalResults
from smt_ray.documents.module_names import parse_module_name
from smt_ray.documents.run import (
    VALIDATION_LOSS,
    WHO,
    KeptLoss,
    ModelSummary,
    Paths,
    RanWith,
    Result,
    Retention,
    RunMetrics,
    SelectedBlocks,
    StageEntry,
    TaskResults,
    Trainable,
    TrainingMetrics,
    evaluation_key,
)
from smt_ray.documents.stages import RankOutcome, SelectionSummary, TrainingSummary
from smt_ray.evaluation.metrics import majority_share
from smt_ray.methods.protocol import Counts
from smt_ray.run.artifacts import StageArtifacts
from smt_ray.stages.plan import RunPlan
from smt_ray.tracking.uris import how_to_open, resolve_tracking_uri


def collect_metrics(folder: RunFolder, plan: RunPlan, seconds: float) -> RunMetrics:
    """Collects the content of a run's table, and the settings that training really used."""
    stages = folder.manifest().stages
    trained = plan.training.read().summary if "training" in stages else None
    selected = None
    if plan.selection and "selection" in stages:
        selected = plan.selection.read().summary
    trainable = _trainable(trained.outcome if trained else None, selected)
    return RunMetrics(
        name=folder.name,
        method=plan.config.method,
        model=ModelSummary(
            name=plan.model.name,
            num_parameters=trainable.num_base if trainable else None,
            identity=dict(plan.identity),
        ),
        seconds=seconds,
        stages={
            key: entry.model_copy(update={"directory": plan.storage.uri("stages", entry.stage)})
            for key, entry in stages.items()
        },
        tasks=_tasks(plan, set(stages)),
        retention=_retention(plan, set(stages)),
        lm_eval=_lm_eval(plan, set(stages)),
        rows=plan.tokens.read().summary if "tokens" in stages else None,
        trainable=trainable,
        selection=_selected_blocks(selected) if selected else None,
        method_settings=trained.method_settings if trained else {},
        training=_training(folder, trained, stages, plan.config.first_step) if trained else None,
        ran=_ran_with(trained.outcome) if trained else None,
        paths=_paths(folder, plan, is_trained=trained is not None),
    )


def _training(
    folder: RunFolder, trained: TrainingSummary, stages: Mapping[str, StageEntry], first_step: int
) -> TrainingMetrics:
    records = StageArtifacts(folder.storage, dict(stages)).records()
    before = (record["metrics"] for record in records if record["step"] == first_step)
    return TrainingMetrics(
        num_steps=trained.num_steps,
        metrics=trained.outcome.metrics,
        loss_before=next((m[VALIDATION_LOSS] for m in before if VALIDATION_LOSS in m), None),
    )


def _retention(plan: RunPlan, finished: set[str]) -> dict[str, Retention]:
    losses: dict[str, dict[str, KeptLoss]] = {}
    for who in ("base", "tuned"):
        if evaluation_key(who) in finished:
            for name, loss in plan.evaluations[who].read().summary.retention.items():
                losses.setdefault(name, {})[who] = loss
    return {name: Retention(**found) for name, found in losses.items()}


def _lm_eval(plan: RunPlan, finished: set[str]) -> dict[str, LmEvalResults]:
    results: dict[str, dict[str, LmEvalResult]] = {}
    for who in ("base", "tuned"):
        if evaluation_key(who) in finished:
            for name, result in plan.evaluations[who].read().summary.lm_eval.items():
                results.setdefault(name, {})[who] = result
    return {name: LmEvalResults(**found) for name, found in results.items()}


def _tasks(plan: RunPlan, finished: set[str]) -> dict[str, TaskResults]:
    results: dict[str, dict[str, Result]] = {task: {} for task in plan.tests}
    for who in WHO:
        if evaluation_key(who) in finished:
            summary = plan.evaluations[who].read().summary
            for task, of_task in summary.tasks.items():
                results[task][who] = of_task.result()
    if not any(results.values()):
        return {}
    return {
        task: TaskResults.model_validate(
            {
                "num_rows": len(test.rows),
                "majority": majority_share([row.answer for row in test.rows]),
                **results[task],
            }
        )
        for task, test in plan.tests.items()
    }


def _trainable(outcome: RankOutcome | None, selected: SelectionSummary | None) -> Trainable | None:
    if outcome is not None:
        return outcome.trainable
    if selected is None:
        return None
    num_trainable, num_base = selected.num_trainable, selected.num_base
    return Counts(num_trainable, num_base, num_base + num_trainable).summary()


def _selected_blocks(summary: SelectionSummary) -> SelectedBlocks:
    chosen = {name: count for name, count in summary.counts.items() if count}
    projections: dict[str, int] = {}
    for name, count in chosen.items():
        projection = parse_module_name(name)[1]
        projections[projection] = projections.get(projection, 0) + count
    return SelectedBlocks(
        num_blocks=summary.num_blocks,
        block_size=summary.block_size,
        block_shape=summary.block_shape,
        num_modules=len(chosen),
        num_layers=len({name.rpartition(".")[0] for name in chosen}),
        projections=projections,
        margin=summary.margin,
        score=summary.score,
        scope=summary.scope,
    )


def _ran_with(outcome: RankOutcome) -> RanWith:
    return RanWith(
        batching=outcome.batching,
        kernel=outcome.kernel,
        optimizer=outcome.optimizer,
        devices=f"{outcome.num_ranks} x {outcome.device}",
        zero_stage=outcome.zero_stage,
        dtype=outcome.dtype,
    )


def _paths(folder: RunFolder, plan: RunPlan, *, is_trained: bool) -> Paths:
    tracking = plan.config.tracking
    has_other_base = is_trained and plan.config.trained_warmup
    return Paths(
        run=folder.uri,
        report=folder.storage.uri(folder.path(REPORT)),
        adapter=plan.storage.uri(plan.training.path(ADAPTER)) if is_trained else None,
        adapter_base=plan.starting_model.path if has_other_base else None,
        tracking=how_to_open(resolve_tracking_uri(tracking.uri, plan.storage.root))
        if tracking.enabled
        else None,
    )
