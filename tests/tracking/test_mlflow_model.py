"""Claims about a logged model: MLflow loads what was sent, and its registry takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from smt_ray.builtin import MODEL_DIR
from smt_ray.tracking import mlflow_model
from smt_ray.tracking.mlflow_tracker import MlflowTracker
from smt_ray.tracking.replay import LOGGED_MODEL, RunSnapshot, replay

PROMPT = "### Instruction:\nWhat is 2 plus 3?\n\n### Response:\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with other weights, as a folder with a card."""
    folder = tmp_path_factory.mktemp("merged")
    changed = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    changed.save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# mine\n")
    return folder


@pytest.fixture
def run_id(
    tracker: MlflowTracker, make_snapshot: Callable[..., RunSnapshot], model: Path
) -> str | None:
    return replay(tracker, make_snapshot(model=str(model)))


def models_of(tracker: MlflowTracker, run_id: str) -> list[Any]:
    client = MlflowClient(tracker.uri)
    outputs = client.get_run(run_id).outputs.model_outputs
    return [client.get_logged_model(output.model_id) for output in outputs]


def test_the_model_is_loaded_and_registered_and_computes_the_same(
    tracker: MlflowTracker, run_id: str, model: Path
) -> None:
    import mlflow

    (logged,) = models_of(tracker, run_id)
    assert (logged.name, str(logged.status), logged.source_run_id) == ("tuned", "READY", run_id)
    assert logged.params["method"] == "smt"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracker.uri)
    try:
        version = mlflow.register_model(logged.model_uri, "registered")
        assert version.status == "READY"
        assert logged.model_id in str(version.source)
        parts = mlflow.transformers.load_model("models:/registered/1", return_type="components")
        pipeline = mlflow.transformers.load_model(logged.model_uri)
        pyfunc = mlflow.pyfunc.load_model(logged.model_uri)
    finally:
        mlflow.set_tracking_uri(before)
    ours, tokenizer = AutoModelForCausalLM.from_pretrained(model), parts["tokenizer"]
    ids = AutoTokenizer.from_pretrained(model)(PROMPT, return_tensors="pt").input_ids
    assert torch.equal(tokenizer(PROMPT, return_tensors="pt").input_ids, ids)
    with torch.no_grad():
        assert torch.equal(parts["model"](ids).logits, ours(ids).logits)
    written = ours.generate(ids, max_new_tokens=8, do_sample=False)[0]
    found = pipeline(PROMPT, max_new_tokens=8, do_sample=False)[0]["generated_text"]
    assert found == tokenizer.decode(written, skip_special_tokens=True)
    assert pyfunc.metadata.signature is not None


def test_the_model_is_sent_once(tracker: MlflowTracker, run_id: str, model: Path) -> None:
    tracker.log_model(str(model), LOGGED_MODEL)
    assert len(models_of(tracker, run_id)) == 1


def test_a_model_that_could_not_be_sent_is_marked_and_sent_again(
    tracker: MlflowTracker, make_snapshot: Callable[..., RunSnapshot], model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_id = replay(tracker, make_snapshot())
    assert run_id is not None
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_model_artifacts", _break_down)
        with pytest.raises(ConnectionError):
            tracker.log_model(str(model), LOGGED_MODEL)
    client = MlflowClient(tracker.uri)
    (failed,) = client.search_logged_models([tracker.experiment_id])
    assert str(failed.status) == "FAILED"
    tracker.log_model(str(model), LOGGED_MODEL)
    assert [str(logged.status) for logged in models_of(tracker, run_id)] == ["READY"]


def _break_down(*_: Any, **__: Any) -> None:
    raise ConnectionError("the server is away")


def test_requirements_are_pinned_without_local_versions() -> None:
    pinned = dict(line.split("==") for line in mlflow_model._pinned())
    assert {"transformers", "torch"} <= pinned.keys()
    assert not any("+" in version for version in pinned.values())
