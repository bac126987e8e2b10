"""Claims about whole runs on a GPU: in bfloat16 with NCCL, they learn what the CPU learns."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.run import RunConfig
from smt_ray.documents.run import RunMetrics
from tests.faults.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.gpu]
Quick = Callable[..., RunConfig]
METHODS = {
    "smt": ("method=smt",),
    "columns": ("selection={block_shape: column, budget: 0.05}",),
    "sift": ("method=sift", "sift.budget=0.05"),
    "lora": ("method=lora", "lora.dropout=0"),
    "dora": ("method=dora", "lora.dropout=0"),
    "full": ("method=full", "training.learning_rate=3e-4"),
    "smt, nf4": ("method=smt", "model.quantization=nf4"),
    "smt, ZeRO-3": ("method=smt", "deepspeed.zero_stage=3"),
    "smt, recomputed": ("method=smt", "training.activation_checkpointing=true"),
}
ONE = ("resources.num_workers=1", "warmup.num_shards=1", "training.max_steps=12")


def make(quick: Quick, folder: Path, is_gpu: bool, dtype: str, *overrides: str) -> Scene:
    folder.mkdir()
    use = f"resources.use_gpu={str(is_gpu).lower()}"
    config = quick(folder / "storage", *ONE, use, f"model.dtype={dtype}", *overrides)
    return Scene(folder, config)


def metrics(run: Scene) -> RunMetrics:
    return RunFolder.open(Storage(run.config.storage), run.config.name).metrics()


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_on_the_gpu_learns_what_float32_learns_on_the_cpu(
    quick: Quick, tmp_path: Path, is_gpu: bool, name: str
) -> None:
    plain = [item for item in METHODS[name] if "quantization" not in item]
    there = make(quick, tmp_path / "there", is_gpu, "bfloat16", *METHODS[name])
    here = make(quick, tmp_path / "here", False, "float32", *plain)
    for run in (there, here):
        run.start()
        assert run.ends() == 0, run.said()
    losses, expected = there.losses(), here.losses()
    assert losses.keys() == expected.keys()
    for step, loss in expected.items():
        assert losses[step] == pytest.approx(loss, rel=0.1, abs=0.02), step
    ran = metrics(there).ran
    assert ran is not None
    assert ran.dtype == "bfloat16"
    if is_gpu:
        assert ran.optimizer == "FusedAdam"
        assert ran.devices is not None
        assert "cpu" not in ran.devices


def test_a_killed_run_resumes_on_the_gpu(quick: Quick, tmp_path: Path, is_gpu: bool) -> None:
    longer = ("training.max_steps=40", "training.checkpoint_every_steps=5")
    whole = make(quick, tmp_path / "whole", is_gpu, "bfloat16", *longer)
    whole.start()
    assert whole.ends() == 0, whole.said()
    run = make(quick, tmp_path / "killed", is_gpu, "bfloat16", *longer)
    run.start()
    run.trains()
    assert run.driver is not None
    run.driver.send_signal(signal.SIGKILL)
    run.ends()
    run.start()
    assert run.ends() == 0, run.said()
    assert "resumed from the checkpoint at step" in run.said()
    # Sums of CUDA's kernels may have another order each time.
    expected = whole.losses()
    for step, loss in run.losses().items():
        assert loss == pytest.approx(expected[step], rel=0.02, abs=0.01), step
