"""Faults of files: a damaged checkpoint, a full disk, weights that are missing or not finite."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from smt_ray.builtin import MODEL_DIR
from tests.faults.scene import Scene

pytestmark = pytest.mark.slow
Make = Callable[..., Scene]


def delete(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)


def cut(checkpoint: Path) -> None:
    weights = max(checkpoint.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-100])


def edit(checkpoint: Path) -> None:
    weights = max(checkpoint.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def damage_the_list(checkpoint: Path) -> None:
    for file in checkpoint.parent.glob("*.json"):
        file.write_bytes(file.read_bytes()[:20])


@pytest.mark.parametrize("damage", [delete, cut, edit, damage_the_list])
def test_a_checkpoint_is_damaged_while_the_run_is_down(
    scene: Make, undisturbed: Scene, damage: Callable[[Path], None]
) -> None:
    run = scene("training", "training.keep_checkpoints=3")
    run.start()
    run.trains(step=20)
    assert run.driver is not None
    run.driver.send_signal(signal.SIGKILL)
    run.ends()
    complete = [path for path in run.checkpoints() if list(path.glob("*.safetensors"))]
    damage(complete[-1])
    run.start()
    assert run.ends() == 0
    assert "checkpoint" in run.said()
    assert run.adapter() == undisturbed.adapter()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_disk_is_full(scene: Make, undisturbed: Scene, small_disk: Path) -> None:
    run = scene("training", "tracking.enabled=false")
    storage = small_disk / "storage"
    shutil.move(run.config.storage, storage)
    run.config = run.config.model_copy(update={"storage": str(storage)})
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(max(0, free - 300_000)))
    run.start()
    assert run.ends() == 2, run.said()
    assert run.last_line().startswith("error: ")
    assert "No space left on device" in run.last_line()
    assert not list(storage.rglob("*.part"))
    filler.unlink()
    run.start()
    assert run.ends() == 0
    assert run.adapter() == undisturbed.adapter()


def broken_model(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> str:
    """The built-in model in a folder, with other weights."""
    shutil.copytree(MODEL_DIR, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def lose_a_weight(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.1.self_attn.v_proj.weight"]


def add_a_weight(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.self_attn.w_proj.weight"] = torch.zeros(2, 2)


def cut_a_weight(weights: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.self_attn.v_proj.weight"
    weights[name] = weights[name][:-1].contiguous()


def poison_a_weight(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.self_attn.v_proj.weight"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lose_a_weight, ["v_proj.weight", "model.layers.1"]),
        (add_a_weight, ["w_proj.weight"]),
        (cut_a_weight, ["v_proj.weight"]),
        (poison_a_weight, ["the loss of step 1 must be finite"]),
    ],
)
def test_a_model_has_bad_weights(
    scene: Make, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], parts: list[str]
) -> None:
    run = scene("warmup", "resources.num_workers=1", "warmup.num_shards=1")
    model = broken_model(tmp_path / "model", change)
    run.config = run.config.model_copy(
        update={"model": run.config.model.model_copy(update={"builtin": None, "path": model})}
    )
    run.start()
    assert run.ends() == 2, run.said()
    assert run.last_line().startswith("error: ")
    for part in parts:
        assert part in run.last_line()
