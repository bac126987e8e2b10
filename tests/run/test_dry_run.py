"""A dry run makes the checks of a run and names its stages, and writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.run.dry_run import CheckedRun, dry_run
from smt_ray.stages.plan import make_plan
from tests.finished_runs import finish_run, publish_stage

MakeConfig = Callable[..., RunConfig]


def works(found: CheckedRun) -> dict[str, str]:
    return {stage.key: stage.work for stage in found.stages}


def files(folder: Path) -> dict[Path, int]:
    """The files below a folder and when they were written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def forbid_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", start)


def test_a_finished_run_would_reuse_its_stages_without_ray(
    quick: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_ray(monkeypatch)
    config = quick(tmp_path / "kept")
    finish_run(config)
    before = files(tmp_path)
    found = dry_run(config)
    assert set(works(found).values()) == {"reuse"}
    assert found.memory is None
    assert files(tmp_path) == before


def test_a_name_of_another_config_is_refused(
    quick: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_ray(monkeypatch)
    finish_run(quick(tmp_path / "kept"))
    with pytest.raises(UserError, match=r"^name: the run quick was made with another config"):
        dry_run(quick(tmp_path / "kept", "selection.budget=0.1"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_without_permission_is_refused(
    quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"^storage: must be writable"):
        dry_run(quick(tmp_path / "theirs" / "kept"))


def test_a_storage_below_a_file_is_refused(quick: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^storage: must be writable"):
        dry_run(quick(tmp_path / "file" / "kept"))


def test_a_last_stage_that_the_method_lacks_is_refused(
    quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^--until: must be one of training, evaluation"):
        dry_run(quick(tmp_path / "kept", "method=lora"), "warmup")


@pytest.mark.slow
def test_a_new_run_is_planned_and_nothing_is_written(
    cluster: None, quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    found = dry_run(quick(tmp_path / "kept"))
    assert set(works(found).values()) == {"compute"}
    assert found.rows.training.num_rows == 292
    assert found.memory is not None
    assert found.memory.trainable.num_trainable == 36_864
    assert not list(tmp_path.iterdir())
    short = dry_run(quick(tmp_path / "kept"), "selection")
    assert list(works(short)) == ["tokens", "warmup", "selection"]


@pytest.mark.slow
def test_a_warmup_that_a_finished_selection_replaces_is_skipped(
    cluster: None, quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = quick(tmp_path / "kept")
    publish_stage(make_plan(config), "selection")
    assert works(dry_run(config))["warmup"] == "skip"
    assert works(dry_run(config, "warmup"))["warmup"] == "compute"


@pytest.mark.slow
def test_more_workers_than_the_cluster_holds_are_refused(
    cluster: None, quick: Callable[..., RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^resources\.num_workers: "):
        dry_run(quick(tmp_path / "kept", "resources.num_workers=64"))
    assert not list(tmp_path.iterdir())
