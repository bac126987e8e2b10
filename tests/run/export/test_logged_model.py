"""Claims about ``tracking.log_model``: MLflow has the very model that ``smt-ray merge`` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_the_logged_model_equals_the_merged_one_and_is_sent_once(
    whole: Any, quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    import mlflow

    from smt_ray.run import flow
    from smt_ray.run.export.merge import merge_run
    from smt_ray.run.log import log_run
    from smt_ray.tracking.uris import resolve_tracking_uri

    storage = str(whole.storage)
    flow.run(quick(whole.storage, "name=logged", "tracking.log_model=true"))
    client = mlflow.MlflowClient(resolve_tracking_uri(None, storage))

    def models() -> list[Any]:
        (run,) = client.search_runs(
            [client.get_experiment_by_name("smt_ray").experiment_id],  # type: ignore[union-attr]
            "attributes.run_name = 'logged'",
        )
        return [client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]

    (logged,) = models()
    assert (logged.name, str(logged.status)) == ("tuned", "READY")
    place = logged.artifact_location.removeprefix("file://")
    theirs = mlflow.transformers.load_model(place, return_type="components")["model"]
    merge_run(Storage(storage), "logged", tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.arange(3, 43).view(2, 20)
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, ours(ids).logits)
    log_run(storage, "logged")
    assert len(models()) == 1


def test_a_model_that_cannot_be_merged_fails_no_run_and_the_rest_is_tracked(
    whole: Any, quick: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from smt_ray.run import flow
    from smt_ray.run.export import logged_model

    def break_down(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(logged_model, "write_merged", break_down)
    config = quick(whole.storage, "name=unmerged", "tracking.log_model=true")
    metrics = flow.run(config)
    assert metrics.paths.tracked_run
    said = capfd.readouterr().err
    assert "the tuned model could not be merged (No space left on device)" in said
    assert f"smt-ray log unmerged --storage {whole.storage} sends it" in said


def test_a_server_that_is_away_fails_no_run(
    whole: Any, quick: Callable[..., RunConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    from smt_ray.run import flow

    away = ("tracking.uri=http://127.0.0.1:9", "tracking.log_model=true")
    metrics = flow.run(quick(whole.storage, "name=away", *away))
    assert metrics.tasks == whole.metrics.tasks
    assert "MLflow did not take everything" in capfd.readouterr().err
