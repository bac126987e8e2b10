"""Claims about failures of workers and actors, and about the messages that users see."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from smt_ray.cli import exit_with
from smt_ray.cluster.writer import TrackedRun
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

pytestmark = pytest.mark.slow

STAGES = (
    "tokens", "warmup", "selection", "training",
    "evaluation_base", "evaluation_base_likelihood", "evaluation_tuned",
)  # fmt: skip


def test_a_model_that_a_worker_cannot_load_is_reported_in_one_line(
    cluster: None, model_folder: Path, rows_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from smt_ray.run.evaluate import evaluate_model

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


def test_a_dead_tracking_actor_fails_no_run(
    whole: Any, stages_of: Callable[[Sequence[str]], Path], quick: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import ray

    from smt_ray.run.flow import Flow

    flow = Flow(quick(stages_of(STAGES)))
    finish = flow._finish_tracking

    def die(tracked: TrackedRun, is_whole: bool) -> str | None:
        ray.kill(tracked.writer)
        return finish(tracked, is_whole)

    monkeypatch.setattr(flow, "_finish_tracking", die)
    metrics = flow.run("evaluation")
    assert metrics.tasks == whole.metrics.tasks
    assert flow.folder.manifest().status == "FINISHED"
    assert "smt-ray log quick" in capsys.readouterr().err


def test_ranks_that_the_cluster_cannot_hold_are_refused_before_the_warm_up(
    cluster: None, quick: Callable[..., RunConfig], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from smt_ray.run.flow import Flow

    flow = Flow(quick(tmp_path, "resources.num_workers=3", "tracking.enabled=false"))
    with pytest.raises(SystemExit) as stop:
        exit_with(lambda: flow.run("training"))
    assert stop.value.code == 2
    assert "resources.num_workers" in capsys.readouterr().err
    assert not flow.plan.warmup.is_done()


def test_ranks_wait_for_resources_that_other_work_holds(
    cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.util.placement_group import placement_group, remove_placement_group

    from smt_ray.cluster import waiting
    from smt_ray.cluster.resources import ProcessResources

    rank, other = ProcessResources(1, 0, None), placement_group([{"CPU": 2}])
    assert other.wait(60)
    with pytest.raises(UserError, match="needs 2 x 1 CPU, which other work"):
        waiting.wait_for_place("training", 2, rank, 1.0)
    monkeypatch.setattr(waiting, "_SAY_AFTER_S", 0.0)
    ends = threading.Timer(3.0, remove_placement_group, [other])
    ends.start()
    waiting.wait_for_place("training", 2, rank, 60.0)
    ends.join()
    assert capsys.readouterr().err.count("training: waiting for 2 x 1 CPU") == 1
    waiting.wait_for_place("training", 2, rank, 60.0)  # the place of the first wait is free again


@pytest.mark.parametrize("until", ["warmup", "evaluation"])
def test_a_stage_that_gets_no_place_in_time_is_named(
    until: str, cluster: None, quick: Callable[..., RunConfig],
    stages_of: Callable[[Sequence[str]], Path],
) -> None:  # fmt: skip
    from ray.util.placement_group import placement_group, remove_placement_group

    from smt_ray.run.flow import Flow

    made = STAGES[:1] if until == "warmup" else STAGES[:4]
    flow = Flow(quick(stages_of(made), "resources.wait_timeout_s=1", "tracking.enabled=false"))
    other = placement_group([{"CPU": 2}])
    assert other.wait(60)
    try:
        with pytest.raises(UserError, match=f"{until} needs .* all that time") as raised:
            flow.run(until)
    finally:
        remove_placement_group(other)
    assert raised.value.field == "resources.wait_timeout_s"
    assert flow.folder.manifest().status == "FAILED"
