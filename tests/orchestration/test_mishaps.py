"""Claims about what goes wrong in workers and actors, and how little of it a user must see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from smt_ray.cli import exit_with
from smt_ray.config.run import RunConfig

pytestmark = pytest.mark.slow

STAGES = (
    "tokens", "warmup", "selection", "training",
    "evaluation of base", "evaluation of base_likelihood", "evaluation of tuned",
)  # fmt: skip


def test_a_model_that_a_worker_cannot_load_is_one_line(
    cluster: None, model_folder: Path, rows_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from smt_ray.orchestration.evaluate import evaluate_model

    with pytest.raises(SystemExit) as stop:
        exit_with(
            lambda: evaluate_model(
                str(tmp_path / "storage"), str(model_folder), None, ["boolq"], str(rows_folder),
                ["resources.use_gpu=false"],
            )
        )  # fmt: skip
    assert stop.value.code == 2
    said = capsys.readouterr().err
    (line,) = [text for text in said.splitlines() if text.startswith("error:")]
    assert "tokenizer" in line
    assert "Traceback" not in said


def test_a_tracking_actor_that_dies_takes_no_run_with_it(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import ray

    from smt_ray.orchestration.flow import Flow

    flow = Flow(quick(stages_of(STAGES)))
    finish = flow.tracking.finish

    def die() -> None:
        ray.kill(flow.tracking._writer)
        finish()

    monkeypatch.setattr(flow.tracking, "finish", die)
    metrics = flow.run("evaluation")
    assert metrics["tasks"] == whole.metrics["tasks"]
    assert flow.folder.manifest()["status"] == "FINISHED"
    assert "smt-ray log quick" in capsys.readouterr().err


def test_ranks_that_the_cluster_cannot_hold_cost_no_warm_up(
    cluster: None, quick: Callable[..., RunConfig], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from smt_ray.orchestration.flow import Flow

    flow = Flow(quick(tmp_path, "resources.num_workers=3", "tracking.enabled=false"))
    with pytest.raises(SystemExit) as stop:
        exit_with(lambda: flow.run("training"))
    assert stop.value.code == 2
    assert "resources.num_workers" in capsys.readouterr().err
    assert flow.plan.warmup.manifest() is None
