"""A run's folder: a manifest that names its stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_new_run_has_an_empty_manifest_and_no_folder(storage: Storage) -> None:
    run = RunFolder(storage, "mine")
    assert run.manifest() == {"name": "mine", "stages": {}}
    assert storage.list_folders("runs") == []


def test_entries_are_merged_and_kept(storage: Storage) -> None:
    RunFolder(storage, "mine").update(status="RUNNING", seed=1)
    RunFolder(storage, "mine").update(status="FINISHED")
    manifest = RunFolder.open(storage, "mine").manifest()
    assert manifest == {"name": "mine", "stages": {}, "status": "FINISHED", "seed": 1}


def test_stages_are_noted_by_kind_and_the_latest_counts(storage: Storage) -> None:
    run = RunFolder(storage, "mine")
    run.add_stage("warmup", "warmup-1", seconds=2.0, reused=False)
    run.add_stage("selection", "selection-1", seconds=1.0, reused=False)
    run.add_stage("warmup", "warmup-2", seconds=3.0, reused=True)
    assert run.manifest()["stages"] == {
        "warmup": {"stage": "warmup-2", "seconds": 3.0, "reused": True},
        "selection": {"stage": "selection-1", "seconds": 1.0, "reused": False},
    }


def test_an_unknown_run_lists_those_there_are(storage: Storage) -> None:
    for name in ("b", "a"):
        RunFolder(storage, name).update()
    with pytest.raises(UserError) as caught:
        RunFolder.open(storage, "c")
    assert (caught.value.field, caught.value.got) == ("--run", "c")
    assert storage.root in caught.value.rule
    assert "runs there: a, b;" in caught.value.fix


def test_a_storage_without_runs_says_so(storage: Storage) -> None:
    with pytest.raises(UserError, match="runs there: none"):
        RunFolder.open(storage, "c")


def test_a_truncated_run_manifest_is_named(storage: Storage) -> None:
    run = RunFolder(storage, "mine")
    run.update(status="RUNNING")
    place = run.path("run.json")
    storage.write_bytes(place, storage.read_bytes(place)[:-5])
    with pytest.raises(UserError) as caught:
        RunFolder.open(storage, "mine").manifest()
    assert caught.value.field == storage.uri(place)
