"""The folder of a run has a manifest that names its stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.run import RunManifest, RunMetrics, StageEntry
from smt_ray.errors import UserError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_a_new_run_has_an_empty_manifest_and_no_folder(storage: Storage) -> None:
    run = RunFolder(storage, "mine")
    assert run.manifest() == RunManifest(name="mine")
    assert not run.exists()
    assert run.metrics() is None
    assert storage.list_folders("runs") == []


def test_an_update_keeps_the_other_fields(storage: Storage) -> None:
    RunFolder(storage, "mine").update(status="RUNNING", started_ms=1)
    updated = RunFolder(storage, "mine").update(status="FINISHED")
    assert updated == RunManifest(name="mine", status="FINISHED", started_ms=1)
    assert RunFolder.open(storage, "mine").manifest() == updated


def test_a_stage_replaces_an_earlier_stage_of_its_kind(storage: Storage) -> None:
    run = RunFolder(storage, "mine")
    run.add_stage("warmup", "warmup-1", seconds=2.0, reused=False)
    run.add_stage("selection", "selection-1", seconds=1.0, reused=False)
    run.add_stage("warmup", "warmup-2", seconds=3.0, reused=True)
    assert run.manifest().stages == {
        "warmup": StageEntry(stage="warmup-2", seconds=3.0, reused=True),
        "selection": StageEntry(stage="selection-1", seconds=1.0, reused=False),
    }


def test_an_unknown_run_is_refused_and_existing_runs_are_listed(storage: Storage) -> None:
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


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{}", "name: Field required"),
        ("[]", "the document: Input should be a valid dictionary"),
        ("null", "the document: Input should be a valid dictionary"),
        ('{"name": "mine", "status": "FIN', "Unterminated string"),
        ('{"name": "mine", "status": "DONE"}', "status: Input should be"),
        ('{"name": "mine", "stages": {"warmup": {"seconds": "x"}}}', "stages.warmup.seconds: "),
        ('{"name": "mine", "extra": 1}', "extra: Extra inputs are not permitted"),
        ("[" * 5000, "recursion"),
        ('{"name": "mine", "config": {"a": ' + "[" * 400 + "]" * 400 + "}}", "config"),
    ],
    ids=lambda text: text[:30],
)
def test_a_damaged_run_manifest_is_named_with_its_field_and_what_to_do(
    storage: Storage, text: str, what: str
) -> None:
    run = RunFolder(storage, "mine")
    place = run.path("run.json")
    storage.write_bytes(place, text.encode())
    with pytest.raises(UserError) as caught:
        RunFolder.open(storage, "mine").manifest()
    assert caught.value.field == storage.uri(place)
    assert what in caught.value.rule
    assert "start the run again" in caught.value.fix
    assert "\n" not in str(caught.value)


def test_metrics_are_read_as_they_were_written_and_damaged_ones_are_named(storage: Storage) -> None:
    run, metrics = RunFolder(storage, "mine"), RunMetrics(name="mine", seconds=3.0)
    place = run.path("metrics.json")
    storage.write_json(place, metrics.to_json())
    assert run.metrics() == metrics
    storage.write_json(place, {"seconds": "long"})
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read \(seconds: ") as caught:
        run.metrics()
    assert "start the same run again" in caught.value.fix
