"""Finished runs without training, with the stages and documents of a real run.

The plan, the record and the metrics are the product's own; only the artifacts are made by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from smt_ray.artifacts.layout import RECORDS, RUN_METRICS, SELECTION, predictions_file
from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.artifacts.stages import Stage
from smt_ray.config.run import RunConfig
from smt_ray.documents.base import Document
from smt_ray.documents.prediction import Prediction, to_lines
from smt_ray.documents.rows import RowCounts, TokensSummary
from smt_ray.documents.run import (
    VALIDATION_LOSS,
    Record,
    RunMetrics,
    Trainable,
    Who,
    evaluation_key,
)
from smt_ray.documents.stages import (
    EvaluationSummary,
    RankOutcome,
    SelectionSummary,
    TrainingSummary,
    Until,
    WarmupSummary,
)
from smt_ray.evaluation.metrics import summarise
from smt_ray.run import record
from smt_ray.run.metrics import collect_metrics
from smt_ray.smt.selection import ModuleSelection, Selection
from smt_ray.stages.plan import RunPlan, make_plan
from smt_ray.tracking.records import encode_record, make_record

MODULE = "model.layers.0.self_attn.q_proj"
"""The only eligible weight: 6 blocks of size 4."""
SHAPE, BLOCK_SIZE = (8, 12), 4

Files = dict[str, bytes]


def _is_even(index: int) -> bool:
    return index % 2 == 0


@dataclass(frozen=True)
class Content:
    """The content of a run's artifacts.

    Attributes:
        losses: Step -> validation loss.
        step_seconds: The seconds of each step.
        blocks: The selected blocks.
        is_correct: Whether the tuned and the base model answer a row correctly, by its index.
        outputs: Model -> the beginning of the texts that it writes.
    """

    losses: Mapping[int, float] = field(default_factory=lambda: {2: 0.5})
    step_seconds: Sequence[float] = (0.5, 0.5)
    blocks: Sequence[tuple[int, int]] = ((0, 0),)
    is_correct: Callable[[int], bool] = _is_even
    outputs: Mapping[Who, str] = field(default_factory=dict)

    def records(self) -> list[Record]:
        """The records of the training."""
        seconds = dict(enumerate(self.step_seconds, 1))
        return [
            make_record(
                step,
                {"train/loss": 1 / step}
                | ({"train/step_seconds": seconds[step]} if step in seconds else {})
                | ({VALIDATION_LOSS: self.losses[step]} if step in self.losses else {}),
                time_ms=1000 * step,
            )
            for step in sorted({*seconds, *self.losses})
        ]


def finish_run(
    config: RunConfig,
    until: Until = "evaluation",
    content: Content | None = None,
    *,
    plan: RunPlan | None = None,
) -> RunMetrics:
    """Writes a finished run into its storage; finished stages are reused.

    Args:
        config: The configuration of the run.
        until: The last stage of the run.
        content: The content of its artifacts.
        plan: The plan of the run; by default it is made from the configuration.

    Returns:
        The content of its ``metrics.json``.
    """
    plan, content = plan or make_plan(config), content or Content()
    folder = RunFolder(plan.storage, config.name)
    record.begin(folder, plan)
    for key in _keys(plan, until):
        stage = plan.stages[key]
        reused = stage.is_done()
        if not reused:
            publish_stage(plan, key, content)
        folder.add_stage(key, stage.name, seconds=stage.read().seconds, reused=reused)
    metrics = collect_metrics(folder, plan, seconds=3.0)
    folder.storage.write_json(folder.path(RUN_METRICS), metrics.to_json())
    record.end(folder, "FINISHED")
    return metrics


def publish_stage(plan: RunPlan, key: str, content: Content | None = None) -> Stage[Any]:
    """Finishes one stage of a run, even if earlier stages are not finished.

    Args:
        plan: The plan of the run.
        key: The name of the stage in the run's documents.
        content: The content of its artifacts.
    """
    stage = plan.stages[key]
    files, summary = _artifacts(plan, key, content or Content())
    for file, value in files.items():
        stage.storage.write_bytes(stage.path(file), value)
    stage.publish(list(files), summary, seconds=1.0)
    return stage


def write_records(stage: Stage[Any], losses: Mapping[int, float]) -> None:
    """Writes the records of a training that is not finished.

    Args:
        stage: The stage of the training.
        losses: Step -> validation loss.
    """
    content = Content(losses=losses, step_seconds=())
    stage.storage.write_bytes(stage.path(RECORDS), _record_lines(content))


def _keys(plan: RunPlan, until: Until) -> list[str]:
    """The stages of a run up to one of them."""
    last = list(plan.stages).index(list(plan.last_stages(until))[-1])
    return list(plan.stages)[: last + 1]


def _artifacts(plan: RunPlan, key: str, content: Content) -> tuple[Files, Document]:
    if key == "tokens":
        return {}, TokensSummary(training=RowCounts(num_rows=len(plan.split.training)))
    if key == "warmup":
        return {}, WarmupSummary(num_modules=1, block_size=BLOCK_SIZE, num_steps=1)
    if key == "selection":
        return {SELECTION: _selection_bytes(content)}, _selection_summary(plan, content)
    if key == "training":
        return {RECORDS: _record_lines(content)}, _training_summary(content)
    (who,) = (who for who in plan.evaluations if evaluation_key(who) == key)
    return _evaluation(plan, who, content)


def _record_lines(content: Content) -> bytes:
    return "".join(f"{encode_record(found)}\n" for found in content.records()).encode()


def _selection_bytes(content: Content) -> bytes:
    blocks = torch.tensor(sorted(content.blocks), dtype=torch.int32)
    scores = torch.arange(len(blocks), 0, -1, dtype=torch.float64)
    selection = Selection(
        block_size=BLOCK_SIZE,
        modules={MODULE: ModuleSelection(SHAPE, blocks, scores)},
        num_base_parameters=960,
        num_requested=len(blocks),
        score="l2",
        scope="global",
        margin=0.1,
    )
    with scratch_folder() as scratch:
        selection.save(scratch / SELECTION)
        return (scratch / SELECTION).read_bytes()


def _selection_summary(plan: RunPlan, content: Content) -> SelectionSummary:
    num_blocks = len(content.blocks)
    return SelectionSummary(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        num_trainable=num_blocks * BLOCK_SIZE**2,
        num_base=960,
        budget=num_blocks * BLOCK_SIZE**2 / 960,
        margin=0.1,
        score=plan.config.selection.score,
        scope=plan.config.selection.scope,
        counts={MODULE: num_blocks},
        text=f"{num_blocks} of 6 blocks",
    )


def _training_summary(content: Content) -> TrainingSummary:
    metrics: dict[str, float] = {}
    for found in content.records():
        metrics |= found["metrics"]
    outcome = RankOutcome(
        metrics=metrics,
        trainable=Trainable(
            num_trainable=16, num_base=960, percent_of_base=100 * 16 / 960, percent_of_total=1.6
        ),
        num_ranks=1,
        zero_stage=0,
        dtype="float32",
        optimizer="AdamW",
        device="cpu",
        kernel="none",
        batching="packed",
    )
    return TrainingSummary(num_steps=max(content.losses, default=1), outcome=outcome)


def _evaluation(plan: RunPlan, who: Who, content: Content) -> tuple[Files, EvaluationSummary]:
    stage = plan.evaluations[who]
    protocol = stage.inputs["protocol"]
    files, tasks = {}, {}
    for task, test in plan.tests.items():
        predictions = [
            Prediction(
                index=index,
                prompt=row.instruction,
                output=f"{content.outputs.get(who, who)} {index}",
                extracted=row.answer if content.is_correct(index) else "nothing",
                expected=row.answer,
                correct=content.is_correct(index),
            )
            for index, row in enumerate(test.rows)
        ]
        files[predictions_file(protocol, task)] = to_lines(predictions).encode()
        tasks[task] = summarise(predictions)
    return files, EvaluationSummary(protocol=protocol, tasks=tasks)
