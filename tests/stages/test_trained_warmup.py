"""Claims about runs with a trained warm-up: its stage, the model that it keeps, the adapter."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from smt_ray.artifacts.storage import Storage
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.run import RunConfig
from smt_ray.documents.run import RunMetrics
from smt_ray.errors import UserError
from smt_ray.methods.adapters import find_method
from smt_ray.run.evaluate import evaluate_run
from smt_ray.run.export.merge import merge_run
from smt_ray.smt.controls import magnitude_scores
from smt_ray.smt.scores import ScoreTable
from smt_ray.smt.selection import Selection, select_by_scores

pytestmark = pytest.mark.slow

Quick = Callable[..., RunConfig]
TABLE = "score_table.safetensors"
SHARED = ("tokens", "evaluation_base", "evaluation_base_likelihood")
TRAINED = (
    "warmup.mode=trained", "warmup.num_shards=1", "warmup.num_steps=6", "warmup.learning_rate=1e-3",
    "training.max_steps=10", "training.learning_rate=1e-3", "training.lr_warmup_steps=2",
    "training.checkpoint_every_steps=2",
)  # fmt: skip


class Trained:
    """A run with a trained warm-up, which reuses stages of the undisturbed run."""

    def __init__(self, storage: Path, metrics: RunMetrics) -> None:
        self.storage, self.metrics = storage, metrics

    def stage(self, kind: str) -> Path:
        """A finished stage's folder."""
        return self.storage / "stages" / self.metrics.stages[kind].stage

    def manifest(self, kind: str) -> dict[str, Any]:
        """A finished stage's manifest."""
        return json.loads((self.stage(kind) / "manifest.json").read_text())

    @property
    def kept(self) -> Path:
        """The folder of the model that the warm-up kept."""
        return self.stage("warmup") / "model"

    @property
    def adapter(self) -> Path:
        """The folder of the adapter."""
        return self.stage("training") / "adapter"


@pytest.fixture(scope="module")
def trained(whole: Any, quick: Quick, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from smt_ray.run import flow

    storage = tmp_path_factory.mktemp("trained")
    for kind in SHARED:
        shutil.copytree(whole.stage(kind), storage / "stages" / whole.stage(kind).name)
    return Trained(storage, flow.run(quick(storage, "name=trained", *TRAINED)))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 43).view(2, 20)).logits


def test_a_run_keeps_and_records_the_model_of_its_warm_up(trained: Trained, whole: Any) -> None:
    for kind in SHARED:
        assert trained.metrics.stages[kind].reused
    for task, results in trained.metrics.tasks.items():
        assert results.base == whole.metrics.tasks[task].base
        assert 0 <= results.tuned.accuracy <= 1
    summary = trained.manifest("warmup")["summary"]
    assert (summary["num_steps"], summary["outcome"]["num_ranks"]) == (6, 2)
    assert summary["kept_model"] == "model"
    files = trained.manifest("warmup")["files"]
    assert {TABLE, "metrics.jsonl", "model/model.safetensors", "model/tokenizer.json"} <= set(files)
    stage = trained.stage("warmup").name
    assert trained.manifest("training")["summary"]["starts_from"] == f"stages/{stage}/model"
    assert trained.metrics.paths.adapter_base == str(trained.kept)
    table = (trained.storage / "runs" / "trained" / "table.md").read_text()
    assert f"adapter's base: {trained.kept}" in table
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(trained.kept)


def test_its_records_are_named_warmup_and_its_learning_rate_rises_and_stays(
    trained: Trained,
) -> None:
    lines = (trained.stage("warmup") / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(name.startswith("warmup/") for r in records for name in r["metrics"])
    rates = [record["metrics"]["warmup/learning_rate"] for record in records]
    assert rates == [0.0005, *[0.001] * 5]


def test_the_table_has_the_modules_of_a_base_warm_up_and_other_gradients(
    trained: Trained, whole: Any
) -> None:
    found, other = (ScoreTable.load(run.stage("warmup") / TABLE) for run in (trained, whole))
    assert found.num_steps == 6
    assert found.provenance["mode"] == "trained"
    assert found.num_base_parameters == other.num_base_parameters
    assert list(found.statistics) == list(other.statistics)
    assert found.block_size == other.block_size
    for name, sums in found.statistics.items():
        assert not torch.allclose(sums, other.statistics[name], rtol=1e-3), name


def test_the_adapter_loads_on_the_kept_model_and_not_on_the_base(trained: Trained) -> None:
    kept: Any = AutoModelForCausalLM.from_pretrained(trained.kept)
    base: Any = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    plain, before = logits(kept), logits(base)
    assert float((plain - before).abs().max()) > 1e-2
    find_method(trained.adapter).load(kept, trained.adapter)
    assert float((logits(kept) - plain).abs().max()) > 1e-2
    with pytest.raises(UserError) as refused:
        find_method(trained.adapter).load(base, trained.adapter)
    assert "must be loaded on the base model it was trained on" in refused.value.rule
    assert str(trained.kept) in str(refused.value.fix)
    assert torch.equal(logits(base), before)


def test_the_merged_model_predicts_like_the_adapter_on_the_kept_model(
    trained: Trained, tmp_path: Path
) -> None:
    merge_run(Storage(str(trained.storage)), "trained", tmp_path / "merged")
    kept: Any = AutoModelForCausalLM.from_pretrained(trained.kept)
    find_method(trained.adapter).load(kept, trained.adapter)
    alone: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(alone), logits(kept), rtol=0, atol=1e-4)


def test_evaluating_the_run_again_gives_the_same_accuracy(trained: Trained, cluster: None) -> None:
    task = "tiny_commonsense"
    found = evaluate_run(str(trained.storage), "trained", [task], None, ["evaluation.max_rows=8"])
    tuned = trained.metrics.tasks[task].tuned
    assert found.tasks[task].accuracy == tuned.accuracy


def test_the_same_run_reuses_every_stage_and_another_schedule_shares_the_warm_up(
    trained: Trained, quick: Quick
) -> None:
    from smt_ray.run import flow

    again = flow.run(quick(trained.storage, "name=trained", *TRAINED))
    assert all(stage.reused for stage in again.stages.values())
    assert again.tasks == trained.metrics.tasks
    other = quick(trained.storage, "name=other", *TRAINED, "training.lr_schedule=cosine")
    metrics = flow.run(other, "selection")
    for kind in ("warmup", "selection"):
        assert metrics.stages[kind] == again.stages[kind]


def test_a_warm_up_that_starts_the_training_is_its_first_steps(
    trained: Trained, quick: Quick
) -> None:
    """The reference is full fine-tuning, which has the same steps until blocks are selected."""
    from smt_ray.run import flow

    options = ("training.max_steps=9", "training.learning_rate=1e-3", "training.lr_warmup_steps=3")
    start = ("warmup.mode=trained", "warmup.num_shards=1", "warmup.starts_training=true")
    smt = quick(trained.storage, "name=starts", *options, *start, "warmup.num_steps=5")
    full = quick(trained.storage, "name=full", *options, "method=full")
    plan, whole = (flow.Flow(config) for config in (smt, full))
    plan.run("training")
    whole.run("training")

    def metrics(run: Any, stage: str) -> dict[int, dict[str, float]]:
        folder = getattr(run.plan, stage).folder
        lines = (trained.storage / folder / "metrics.jsonl").read_text().splitlines()
        records = {record["step"]: record["metrics"] for record in map(json.loads, lines)}
        return {
            step: {name.partition("/")[2]: value for name, value in found.items()}
            for step, found in records.items()
            if any(name.endswith("learning_rate") for name in found)
        }

    expected, warmup, training = (
        metrics(whole, "training"), metrics(plan, "warmup"), metrics(plan, "training")
    )  # fmt: skip
    assert (list(warmup), list(training)) == ([1, 2, 3, 4, 5], [6, 7, 8, 9])
    for step, found in (warmup | training).items():
        assert found["learning_rate"] == expected[step]["learning_rate"]
    for step in (*warmup, 6):  # the loss of step 6 is that of the weights after step 5
        found = (warmup | training)[step]
        assert found["loss"] == pytest.approx(expected[step]["loss"], rel=1e-5)
    with pytest.raises(UserError, match=r"less than the 5 steps of the training"):
        flow.run(quick(trained.storage, "name=short", *start, "warmup.num_steps=5",
                       "training.max_steps=5"), "warmup")  # fmt: skip


def test_a_control_selects_by_the_weights_of_the_kept_model(trained: Trained, quick: Quick) -> None:
    from smt_ray.run import flow

    control = quick(trained.storage, "name=control", *TRAINED, "selection.score=magnitude")
    metrics = flow.run(control, "selection")
    assert metrics.stages["warmup"].reused
    place = trained.storage / "stages" / metrics.stages["selection"].stage
    found = Selection.load(place / "selection.safetensors")
    kept: Any = AutoModelForCausalLM.from_pretrained(trained.kept)
    weights = {name: kept.get_submodule(name).weight for name in found.modules}
    expected = select_by_scores(
        magnitude_scores(weights, 16), block_size=16, score="magnitude", budget=0.05,
        num_base_parameters=kept.num_parameters(),
    )  # fmt: skip
    for name, module in expected.modules.items():
        assert torch.equal(found.modules[name].indices, module.indices), name


def test_a_rank_killed_during_the_warm_up_changes_neither_table_nor_model(
    trained: Trained, quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from smt_ray.run.flow import Flow

    shutil.copytree(trained.stage("tokens"), tmp_path / "stages" / trained.stage("tokens").name)
    flow, killed = Flow(quick(tmp_path, "name=killed", *TRAINED)), []

    def kill() -> None:
        """Kills rank 0 while it writes the checkpoint of step 4; the one before is complete."""
        assert flow.plan.warmup is not None
        checkpoints = tmp_path / "stages" / flow.plan.warmup.name / "checkpoints"
        while not killed:
            time.sleep(0.01)
            if flow.board is not None and any(checkpoints.glob("step-*4")):
                pids = ray.get(flow.board.starts.remote("warm-up"))[0]
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    flow.run("warmup")
    watcher.join(timeout=5)
    assert flow.plan.warmup is not None
    finished = flow.plan.warmup.read()
    assert finished.summary.outcome is not None
    assert 0 < finished.summary.outcome.resumed_from < 6
    expected = trained.manifest("warmup")["files"]
    assert {name: file.sha256 for name, file in finished.files.items()
            if name in (TABLE, "model/model.safetensors")} == {
        name: expected[name]["sha256"] for name in (TABLE, "model/model.safetensors")
    }  # fmt: skip
