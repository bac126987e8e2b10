"""Claims about the data of a run for trackers, which is read only from its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.documents.lm_eval import LmEvalMetric, LmEvalResult, LmEvalResults
from smt_ray.documents.rows import BadRows, RowCounts, TokensSummary
from smt_ray.documents.run import (
    KeptLoss,
    Retention,
    RunMetrics,
    Trainable,
    TrainingMetrics,
    evaluation_key,
)
from smt_ray.documents.stages import EvaluationSummary, RankOutcome, TaskSummary, TrainingSummary
from smt_ray.run import record
from smt_ray.run.snapshot import final_metrics, read_snapshot, read_start
from smt_ray.stages.plan import RunPlan, make_plan
from smt_ray.tracking.connect import TRACKER
from smt_ray.training.metrics_log import MetricsLog

COUNTS = Trainable(num_trainable=20, num_base=1000, percent_of_base=2.0, percent_of_total=1.96)
OUTCOME = RankOutcome(
    metrics={"train/loss": 0.5}, trainable=COUNTS, optimizer="torch.AdamW", num_ranks=1,
    device="cpu", zero_stage=2, dtype="float32", batching="padded, 64 tokens", kernel="sdpa",
)  # fmt: skip
SUMMARY = TaskSummary(
    num_rows=4, num_correct=3, num_unread=1, accuracy=0.75, interval=(0.5, 0.9), majority_share=0.5
)


@pytest.fixture
def plan(make_config: Callable[..., RunConfig]) -> RunPlan:
    return make_plan(make_config("evaluation.base_likelihood=false"))


@pytest.fixture
def run(plan: RunPlan) -> RunFolder:
    """A run that has begun."""
    folder = RunFolder(plan.storage, plan.config.name)
    record.begin(folder, plan)
    return folder


def finish(run: RunFolder, plan: RunPlan, **settings: Any) -> None:
    """Writes a training and two evaluations as a flow does."""
    storage, stage = plan.storage, plan.training
    log = MetricsLog(storage, stage.path("metrics.jsonl"), 0)
    for step in (1, 2):
        log.add(step, {"train/loss": 1 / step})
    log.flush()
    storage.write_bytes(stage.path("adapter/adapter_config.json"), b"{}")
    summary = TrainingSummary(
        num_steps=2,
        method_settings=settings,
        is_whole_model=plan.config.method == "full",
        outcome=OUTCOME,
    )
    stage.publish(["metrics.jsonl", "adapter/adapter_config.json"], summary, 3.0)
    run.add_stage("training", stage.name, seconds=3.0, reused=False)
    for who, evaluation in plan.evaluations.items():
        predictions = EvaluationSummary(protocol="generate", tasks={"boolq": SUMMARY})
        evaluation.publish([], predictions, 1.0)
        run.add_stage(evaluation_key(who), evaluation.name, seconds=1.0, reused=who == "base")
    record.finish(run, plan, 4.0)
    record.end(run, "FINISHED")


def test_a_run_that_has_just_begun_has_only_its_params_and_rows(
    run: RunFolder, plan: RunPlan
) -> None:
    with read_snapshot(run) as snapshot:
        pass
    assert (snapshot.status, snapshot.ended_ms) == ("RUNNING", None)
    assert snapshot.params["training.learning_rate"] == 1e-4
    assert snapshot.tags["method"] == "smt"
    rows = {dataset.name: (dataset.num_rows, dataset.context) for dataset in snapshot.datasets}
    assert rows == {"training": (18, "training"), "validation": (2, "validation"),
                    "boolq": (10, "test")}  # fmt: skip
    assert not snapshot.records
    assert not snapshot.final_metrics
    assert not snapshot.tables
    files = [Path(path).name for path, _ in snapshot.artifacts]
    assert files == ["config.yaml", "environment.json"]


def test_a_finished_run_has_its_curves_its_accuracies_and_its_adapter(
    run: RunFolder, plan: RunPlan
) -> None:
    finish(run, plan)
    with read_snapshot(run) as snapshot:
        pass
    assert snapshot.status == "FINISHED"
    assert snapshot.ended_ms >= snapshot.started_ms
    curve = [(r["step"], r["metrics"]["train/loss"]) for r in snapshot.records]
    assert curve == [(1, 1.0), (2, 0.5)]
    assert snapshot.final_metrics["eval/boolq/tuned"] == 0.75
    assert snapshot.final_metrics["eval/boolq/base"] == 0.75
    assert snapshot.final_metrics["eval/boolq/majority"] == 0.5
    assert "| boolq |" in snapshot.tags["description"]
    assert "adapter" in {folder for _, folder in snapshot.artifacts}
    assert {"table.md", "curves.png"} <= {Path(path).name for path, _ in snapshot.artifacts}
    assert "| boolq |" in run.storage.read_bytes(run.path("table.md")).decode()
    (table,) = snapshot.tables.values()
    assert table["tuned"] == [0.75]
    assert set(table) == {"task", "base", "tuned", "majority"}  # only the requested evaluations


def test_two_snapshots_of_one_folder_are_equal(run: RunFolder, plan: RunPlan) -> None:
    finish(run, plan)
    again = RunFolder.open(Storage(plan.storage.root), "small")
    with read_snapshot(run) as one, read_snapshot(again) as other:
        assert one == other


def test_a_run_keeps_its_key_when_it_is_started_again(run: RunFolder, plan: RunPlan) -> None:
    before = read_start(run)
    finish(run, plan)
    run.update(tracked={TRACKER: "abc"})
    record.begin(run, plan)
    assert before.run_id is None
    assert read_start(run) == replace(before, run_id="abc")


def test_a_restarted_run_keeps_the_stages_that_are_still_in_its_plan(
    run: RunFolder, plan: RunPlan, make_config: Callable[..., RunConfig]
) -> None:
    finish(run, plan)
    before = run.manifest().stages
    record.begin(run, plan)
    assert run.manifest().stages == before
    # With fewer evaluations, the record drops the stage that is no longer part of the run.
    fewer = make_plan(make_config("evaluation.base_likelihood=false", "evaluation.base=false"))
    run.update(semantic=fewer.config.semantic_tree())
    record.begin(run, fewer)
    assert set(before) - set(run.manifest().stages) == {"evaluation_base"}
    # A stage that was deleted is dropped, too.
    plan.storage._fs.delete_file(plan.storage.key(plan.training.path("manifest.json")))
    record.begin(run, make_plan(fewer.config))
    assert "training" not in run.manifest().stages


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_method_without_a_selection_shows_its_trained_parameters(
    make_config: Callable[..., RunConfig], method: str
) -> None:
    plan = make_plan(make_config("evaluation.base_likelihood=false", f"method={method}"))
    run = RunFolder(plan.storage, plan.config.name)
    record.begin(run, plan)
    lora = {"rank": 4, "alpha": 8, "dropout": 0.05, "target_modules": ["q_proj"]}
    finish(run, plan, **(lora if method == "lora" else {}))
    with read_snapshot(run) as snapshot:
        pass
    assert snapshot.final_metrics["trainable/parameters"] == 20
    assert snapshot.final_metrics["trainable/percent_of_base"] == 2.0
    assert snapshot.final_metrics["trainable/percent_of_total"] == 1.96
    assert snapshot.final_metrics.get("lora/rank") == (4 if method == "lora" else None)
    table = run.storage.read_bytes(run.path("table.md")).decode()
    assert "20 parameters, 2.000% of the base model, 1.960% of base + adapter" in table
    assert "1,000 parameters" in table
    assert ("rank 4, alpha 8, dropout 0.05, of q_proj" in table) == (method == "lora")
    # A whole model is not sent to MLflow.
    assert ("adapter" in {folder for _, folder in snapshot.artifacts}) == (method == "lora")


def test_rows_losses_and_retention_are_metrics() -> None:
    metrics = RunMetrics(
        rows=TokensSummary(
            training=RowCounts(num_rows=60, num_dropped=15, num_truncated=6, bad=BadRows(number=5)),
            unread=BadRows(number=2),
        ),
        retention={"text": Retention(base=kept(2.0), tuned=kept(2.5))},
        training=TrainingMetrics(num_steps=9, loss_before=3.0),
    )
    assert final_metrics(metrics) == {
        "rows/training": 60,
        "rows/dropped_share": 0.25,
        "rows/truncated_share": 0.1,
        "rows/bad": 7,
        "eval/retention/text/base": 2.0,
        "eval/retention/text/tuned": 2.5,
        "validation/loss_before": 3.0,
    }


def test_metrics_of_lm_eval_have_their_standard_errors() -> None:
    acc = LmEvalMetric(name="acc", value=0.5, stderr=0.1, higher_is_better=True)
    match = LmEvalMetric(name="exact_match", filter="strict", value=0.25)
    result = LmEvalResult(num_rows=4, metrics=[acc, match])
    metrics = RunMetrics(lm_eval={"facts": LmEvalResults(tuned=result)})
    assert final_metrics(metrics) == {
        "eval/lm_eval/facts/acc/tuned": 0.5,
        "eval/lm_eval/facts/acc/tuned_stderr": 0.1,
        "eval/lm_eval/facts/exact_match/strict/tuned": 0.25,
    }


def kept(loss: float) -> KeptLoss:
    return KeptLoss(loss=loss, num_rows=3, num_tokens=9)
