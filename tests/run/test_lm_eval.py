"""Claims about a run with ``evaluation.lm_eval``: both models, wherever results are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.builtin.suites import generate_rows
from smt_ray.config.model import ModelConfig
from smt_ray.documents.lm_eval import LmEvalResult
from smt_ray.models.load import load_model, load_tokenizer
from smt_ray.reporting.text.run import to_markdown

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

NUM_ROWS = 24
TASK = """\
task: facts
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: !function asked.ask
doc_to_choice: "{{choices}}"
doc_to_target: label
target_delimiter: "\\n"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ASK = "def ask(doc):\n    return '### Instruction:\\n' + doc['question'] + '\\n\\n### Response:'\n"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    rows = []
    for record in generate_rows("tiny_commonsense", "test")[: NUM_ROWS + 8]:
        labels = record["instruction"].rpartition("Answer format: ")[2].split("/")
        choices = [f"the correct answer is {label}" for label in labels]
        place = labels.index(record["answer"])
        rows.append({"question": record["instruction"], "choices": choices, "label": place})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "asked.py").write_text(ASK)
    (folder / "facts.yaml").write_text(TASK.replace("ROWS", str(folder / "rows.jsonl")))
    return folder / "facts.yaml"


@pytest.fixture(scope="module")
def storage(whole: Any) -> Path:
    return whole.storage


@pytest.fixture(scope="module")
def metrics(whole: Any, task: Path) -> Any:
    """A run that shares everything but its evaluation with the undisturbed run."""
    from smt_ray.run import flow
    from tests.runs import quick_config

    given = (f"evaluation.lm_eval=[{task}]", f"evaluation.max_rows={NUM_ROWS}")
    off = "evaluation.base_likelihood=false"
    return flow.run(quick_config(whole.storage, "name=harness", off, *given))


def reference(task: Path, model: ModelConfig, dtype: Any = None) -> dict[str, Any]:
    """The metrics that lm-evaluation-harness finds by itself, in one process."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=load_model(model), tokenizer=load_tokenizer(model), batch_size=1)
    known = TaskManager(include_defaults=False)
    found = simple_evaluate(model=lm, tasks=[str(task)], task_manager=known, limit=NUM_ROWS)
    return {key: value for key, value in found["results"]["facts"].items() if "," in key}


def as_library(result: LmEvalResult) -> dict[str, Any]:
    values = {f"{metric.name},{metric.filter}": metric.value for metric in result.metrics}
    errors = {f"{metric.name}_stderr,{metric.filter}": metric.stderr for metric in result.metrics}
    return {**values, **errors}


def test_both_models_have_the_metrics_that_the_library_finds(
    metrics: Any, task: Path, storage: Path, tmp_path: Path
) -> None:
    from smt_ray.run.export.merge import merge_run

    found = metrics.lm_eval["facts"]
    assert found.base.num_rows == found.tuned.num_rows == NUM_ROWS
    assert as_library(found.base) == pytest.approx(reference(task, ModelConfig(builtin="tiny")))
    merged = merge_run(Storage(str(storage)), "harness", tmp_path / "merged")
    expected = reference(task, ModelConfig(path=str(merged)))
    assert as_library(found.tuned) == pytest.approx(expected)
    assert as_library(found.tuned) != as_library(found.base)


def test_the_metrics_are_in_the_table_the_page_the_documents_and_mlflow(
    metrics: Any, storage: Path
) -> None:
    from mlflow import MlflowClient

    from smt_ray.tracking.uris import resolve_tracking_uri

    run = RunFolder.open(Storage(str(storage)), "harness")
    assert run.metrics().lm_eval == metrics.lm_eval  # type: ignore[union-attr]
    (rows,) = [each for each in run.manifest().datasets if each.name == "lm_eval_facts"]
    assert (rows.num_rows, rows.source) == (NUM_ROWS, "lm-evaluation-harness")
    acc = metrics.lm_eval["facts"].tuned.metric("acc")
    shown = f"{acc.value:.4f} (± {acc.stderr:.4f})"
    assert "facts, acc ↑" in to_markdown(metrics)
    assert shown in to_markdown(metrics)
    page = (storage / "runs" / "harness" / "report.html").read_text()
    assert "lm-evaluation-harness" in page
    assert shown in page
    client = MlflowClient(resolve_tracking_uri(None, str(storage)))
    logged = client.get_run(run.manifest().tracked["mlflow"]).data.metrics
    assert logged["eval/lm_eval/facts/acc/tuned"] == acc.value
    assert logged["eval/lm_eval/facts/acc/tuned_stderr"] == pytest.approx(acc.stderr)


def test_every_sample_is_kept_in_the_form_of_the_library(metrics: Any, storage: Path) -> None:
    stage = metrics.stages["evaluation_tuned"].stage
    kept = json.loads((storage / "stages" / stage / "lm_eval.json").read_text())
    samples = kept["samples"]["facts"]
    assert [sample["doc_id"] for sample in samples] == list(range(NUM_ROWS))
    acc = sum(sample["acc"] for sample in samples) / NUM_ROWS
    assert acc == metrics.lm_eval["facts"].tuned.metric("acc").value


def test_smt_ray_evaluate_finds_the_same(metrics: Any, storage: Path, task: Path) -> None:
    from smt_ray.run.evaluate import evaluate_run

    sets = [f"evaluation.lm_eval=[{task}]", f"evaluation.max_rows={NUM_ROWS}"]
    found = evaluate_run(str(storage), "harness", ["tiny_arithmetic"], None, sets)
    assert found.lm_eval["facts"] == metrics.lm_eval["facts"].tuned
    without = evaluate_run(str(storage), "harness", ["tiny_arithmetic"], None, sets[1:])
    assert without.lm_eval == {}  # only what is named is asked
