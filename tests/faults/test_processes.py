"""Faults of processes: whichever one is lost, the run ends as an undisturbed one, byte for byte."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from smt_ray.artifacts.layout import SCORE_TABLE
from smt_ray.documents.run import evaluation_key
from tests.faults.scene import Scene, files

pytestmark = pytest.mark.slow
Make = Callable[..., Scene]
KILL, STOP, END, INTERRUPT = signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize("process", ["ray::compute_sh", "ray::_Adder"])
def test_a_process_of_the_warm_up_is_killed(scene: Make, undisturbed: Scene, process: str) -> None:
    run = scene("warmup")
    run.start()
    run.kill(process, KILL)
    assert run.ends() == 0
    table = (run.stage("warmup") / SCORE_TABLE).read_bytes()
    assert table == (undisturbed.stage("warmup") / SCORE_TABLE).read_bytes()
    selection = run.stage("selection") / "selection.safetensors"
    assert selection.read_bytes() == (undisturbed.stage("selection") / selection.name).read_bytes()


@pytest.mark.parametrize(
    ("process", "fault"),
    [("ray::RayTrainWo", KILL), ("ray::RayTrainWo", STOP), ("ray::TrainContr", KILL)],
    ids=["rank killed", "rank hangs", "controller killed"],
)
def test_a_process_of_the_training_is_lost(
    scene: Make, undisturbed: Scene, process: str, fault: signal.Signals
) -> None:
    run = scene("training", "resources.stall_timeout_s=15")
    run.start()
    run.trains()
    run.kill(process, fault)
    assert run.ends() == 0
    assert "resumed from the checkpoint at step" in run.said()
    assert run.adapter() == undisturbed.adapter()
    assert run.losses() == undisturbed.losses()


def test_an_evaluator_is_killed(scene: Make, undisturbed: Scene) -> None:
    run = scene("evaluation")
    run.start()
    run.kill("ray::Evaluator.", KILL)
    assert run.ends() == 0
    key = evaluation_key("tuned")
    assert files(run.stage(key) / "generate") == files(undisturbed.stage(key) / "generate")


@pytest.mark.parametrize("process", ["raylet", "gcs_server", "ray::Board"])
def test_a_process_of_ray_is_killed(scene: Make, undisturbed: Scene, process: str) -> None:
    """Some runs end before they miss it; others cannot go on, but the same command does."""
    run = scene("training")
    run.start()
    run.trains()
    run.kill(process, KILL)
    if run.ends():
        run.start()
        assert run.ends() == 0, run.said()
    assert run.adapter() == undisturbed.adapter()


@pytest.mark.parametrize("fault", [KILL, END, INTERRUPT])
def test_the_driver_is_ended(scene: Make, undisturbed: Scene, fault: signal.Signals) -> None:
    run = scene("training")
    run.start()
    run.trains()
    assert run.driver is not None
    run.driver.send_signal(fault)
    code = run.ends()
    if fault is not KILL:
        assert code == 130
        assert run.last_line() == "interrupted: the same command resumes from here"
    run.start()
    assert run.ends() == 0
    assert "resumed from the checkpoint at step" in run.said()
    assert run.adapter() == undisturbed.adapter()


def test_two_drivers_make_the_same_run_at_once(scene: Make, undisturbed: Scene) -> None:
    run = scene("training")
    run.start()
    first = run.driver
    run.start()
    second, run.driver = run.driver, first
    codes = [run.ends()]
    run.driver = second
    codes.append(run.ends())
    assert 0 in codes, [log.read_text() for log in run.logs]
    assert run.adapter() == undisturbed.adapter()
