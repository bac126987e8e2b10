"""Claims about one run from rows to metrics, and about commands on the finished run."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from smt_ray import cli
from smt_ray.builtin import MODEL_DIR
from smt_ray.config.load import load_config
from smt_ray.config.run import RunConfig
from smt_ray.reporting.text.values import stage_text

pytestmark = pytest.mark.slow

NUM_STEPS = 40
STEPS = list(range(1, NUM_STEPS + 1))
TASKS = ("tiny_commonsense", "tiny_arithmetic")
STAGES = (
    "tokens", "warmup", "selection", "training",
    "evaluation_base", "evaluation_base_likelihood", "evaluation_tuned",
)  # fmt: skip

# The code of a notebook, which imports only torch, transformers and the method.
PLAIN = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
from smt_ray import load_adapter

base, adapter, merged = sys.argv[1:]
ids = torch.arange(3, 43).view(2, 20)
plain = AutoModelForCausalLM.from_pretrained(base).eval()
with torch.no_grad():
    before = plain(ids).logits
    load_adapter(plain, adapter)
    tuned = plain(ids).logits
    alone = AutoModelForCausalLM.from_pretrained(merged).eval()(ids).logits
print(json.dumps({
    "moved": float((tuned - before).abs().max()),
    "merged": float((tuned - alone).abs().max()),
    "heavy": sorted({"ray", "deepspeed", "mlflow", "pydantic"} & set(sys.modules)),
}))
"""


@pytest.fixture
def smt_ray(
    cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the command line in this process; returns its standard output."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["smt-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        output = capsys.readouterr()
        assert stop.value.code in (0, None), output.err
        return output.out

    return call


def predictions(folder: Path, task: str) -> list[dict[str, Any]]:
    (file,) = folder.glob(f"*/{task}.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def validation_losses(run: Any) -> dict[int, float]:
    lines = (run.stage("training") / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {
        record["step"]: record["metrics"]["validation/loss"]
        for record in records
        if "validation/loss" in record["metrics"]
    }


def test_a_run_writes_its_record(whole: Any) -> None:
    folder = whole.storage / "runs" / whole.name
    assert json.loads((folder / "metrics.json").read_text()) == whole.metrics.to_json()
    assert whole.manifest.status == "FINISHED"
    assert set(whole.manifest.stages) == set(STAGES)
    assert not any(entry.reused for entry in whole.manifest.stages.values())
    assert load_config(folder / "config.yaml").semantic_tree() == whole.manifest.semantic
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]


def test_a_run_writes_its_page(whole: Any) -> None:
    place = Path(whole.metrics.paths.report)
    assert place == whole.storage / "runs" / whole.name / "report.html"
    page = place.read_text()
    for task in TASKS:
        tuned = whole.metrics.tasks[task].tuned
        low, high = tuned.interval
        shown = f"{100 * tuned.accuracy:.1f} ({100 * low:.1f}-{100 * high:.1f})"
        assert f">{shown}<" in page
    for section in ("accuracy", "loss", "selection", "stages", "versions"):
        assert f'<section id="{section}">' in page
    num_blocks = whole.metrics.selection.num_blocks
    assert f"<p>{num_blocks:,} of " in page
    assert "Finished" in page


def test_the_metrics_show_the_trained_parameters_and_the_settings_really_used(whole: Any) -> None:
    metrics = whole.metrics
    assert metrics.trainable.percent_of_base == pytest.approx(5, abs=0.2)
    assert metrics.selection.num_blocks * 256 == metrics.trainable.num_trainable
    assert metrics.ran.devices.startswith("2 x cpu")
    assert metrics.ran.zero_stage == 2
    assert metrics.training.num_steps == NUM_STEPS
    for key in ("train/loss", "train/grad_norm", "validation/loss"):
        assert math.isfinite(metrics.training.metrics[key])
    for task in TASKS:
        assert metrics.tasks[task].num_rows == 8
        for who in ("base", "base_likelihood", "tuned"):
            assert 0 <= metrics.tasks[task].accuracy(who) <= 1


def test_every_step_and_every_validation_is_on_disk(whole: Any) -> None:
    assert whole.steps() == [0, *STEPS]
    assert list(validation_losses(whole)) == [0, 20, 40]


def test_a_finished_training_keeps_its_adapters_and_no_checkpoint(whole: Any) -> None:
    folder, losses = whole.stage("training"), validation_losses(whole)
    assert not (folder / "checkpoints").exists()
    assert (folder / "adapter").is_dir()
    trained = {step: loss for step, loss in losses.items() if step > 0}
    is_last_best = min(trained, key=lambda step: trained[step]) == max(trained)
    assert (folder / "adapter_best").exists() == (not is_last_best)


def test_every_prediction_is_on_disk(whole: Any) -> None:
    for who in ("base", "base_likelihood", "tuned"):
        for task in TASKS:
            found = predictions(whole.stage(f"evaluation_{who}"), task)
            assert len(found) == 8
            correct = sum(prediction["correct"] for prediction in found)
            assert correct / 8 == whole.metrics.tasks[task].accuracy(who)


def test_a_finished_run_is_reused_and_says_so(
    whole: Any, cluster: None, capsys: pytest.CaptureFixture[str], quick: Callable[..., RunConfig]
) -> None:
    from smt_ray.run import flow

    before = whole.manifest
    metrics = flow.run(quick(whole.storage))
    said = capsys.readouterr().err
    after = whole.manifest
    assert {k: v.stage for k, v in after.stages.items()} == {
        k: v.stage for k, v in before.stages.items()
    }
    assert all(entry.reused for entry in after.stages.values())
    for key in STAGES:
        assert f"{stage_text(key)}: reused" in said
    assert metrics.tasks == whole.metrics.tasks
    assert after.tracked == before.tracked


def test_mlflow_has_the_whole_run(whole: Any) -> None:
    from mlflow import MlflowClient

    from smt_ray.tracking.uris import resolve_tracking_uri

    client = MlflowClient(resolve_tracking_uri(None, str(whole.storage)))
    run = client.get_run(whole.manifest.tracked["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.max_steps"] == str(NUM_STEPS)
    assert run.data.tags["method"] == "smt"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == STEPS
    for task in TASKS:
        tuned = whole.metrics.tasks[task].tuned.accuracy
        assert run.data.metrics[f"eval/{task}/tuned"] == tuned
    folders = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"adapter", "selection", "config.yaml", "metrics.json", "report.html"} <= folders


def test_the_adapter_and_the_merged_model_work_in_plain_transformers(
    whole: Any, smt_ray: Callable[..., str], tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    smt_ray("merge", "--run", whole.name, "--out", merged, "--storage", whole.storage)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, MODEL_DIR, whole.stage("training") / "adapter", merged],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["moved"] > 1e-3
    assert found["merged"] == 0
    assert found["heavy"] == []
    assert not list(merged.glob("*.bin"))


def test_smt_ray_evaluate_gives_the_predictions_of_the_run(
    whole: Any, smt_ray: Callable[..., str]
) -> None:
    task, adapter = "tiny_arithmetic", whole.stage("training") / "adapter"
    common = ["--task", task, "--storage", whole.storage]
    for override in ("evaluation.max_rows=8", "resources.num_workers=1", "resources.use_gpu=false"):
        common += ["--set", override]
    answers = [
        json.loads(smt_ray("evaluate", "--run", whole.name, *common)),
        json.loads(smt_ray("evaluate", "--model", MODEL_DIR, "--adapter", adapter, *common)),
    ]
    expected = predictions(whole.stage("evaluation_tuned"), task)
    for answer in answers:
        assert predictions(Path(answer["predictions"]), task) == expected
        accuracy = answer["tasks"][task]["accuracy"]
        assert accuracy == whole.metrics.tasks[task].tuned.accuracy
    assert answers[0]["predictions"] != answers[1]["predictions"]


def test_the_tuned_model_is_evaluated_by_likelihood_in_a_run_and_by_command(
    whole: Any,
    smt_ray: Callable[..., str],
    stages_of: Callable[[Sequence[str]], Path],
    quick: Callable[..., RunConfig],
) -> None:
    from smt_ray.run import flow

    storage, likelihood = stages_of(STAGES), "evaluation_tuned_likelihood"
    metrics = flow.run(quick(storage, "evaluation.tuned_likelihood=true"))
    assert [kind for kind, stage in metrics.stages.items() if not stage.reused] == [likelihood]
    folder = Path(metrics.stages[likelihood].directory)
    tuned, base = predictions(folder, TASKS[0]), whole.stage("evaluation_base_likelihood")
    assert all(prediction["scores"] for prediction in tuned)
    assert [p["scores"] for p in tuned] != [p["scores"] for p in predictions(base, TASKS[0])]
    asked = ["--protocol", "likelihood", "--storage", storage, "--set", "evaluation.max_rows=8"]
    for task in TASKS:
        asked += ["--task", task]
    answer = json.loads(smt_ray("evaluate", "--run", whole.name, *asked))
    assert Path(answer["predictions"]) == folder  # the run's own stage: nothing was computed again
    for task in TASKS:
        shown = metrics.tasks[task].tuned_likelihood.accuracy
        assert answer["tasks"][task]["accuracy"] == shown


def test_a_missing_tracking_server_fails_no_run_and_gets_the_run_later(
    whole: Any,
    smt_ray: Callable[..., str],
    stages_of: Callable[[Sequence[str]], Path],
    quick: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    from smt_ray.run import flow

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{s.getsockname()[1]}"
    storage = stages_of(STAGES)
    monkeypatch.setattr(flow, "_PATIENCE_S", 2.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed)
    metrics = flow.run(quick(storage))
    assert metrics.tasks == whole.metrics.tasks
    said = capsys.readouterr().err
    assert "WARNING tracking" in said
    assert "smt-ray log quick" in said
    record = json.loads((storage / "runs" / "quick" / "run.json").read_text())
    assert record["status"] == "FINISHED"
    assert not record["tracked"]
    store = f"sqlite:///{storage / 'back.db'}"  # takes the part of the server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    smt_ray("log", "quick", "--storage", storage)
    record = json.loads((storage / "runs" / "quick" / "run.json").read_text())
    run = MlflowClient(store).get_run(record["tracked"]["mlflow"])
    history = MlflowClient(store).get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == STEPS
    assert run.info.status == "FINISHED"
    assert run.data.params["selection.budget"] == "0.05"
