"""A stage is named by its inputs and finished by its manifest."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.layout import MANIFEST
from smt_ray.artifacts.stages import TOKENS, WARMUP, Stage, fingerprint
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.rows import RowCounts, TokensSummary
from smt_ray.errors import UserError

SUMMARY = TokensSummary(training=RowCounts(num_rows=3))
INPUTS = {"rows": "abc", "data": {"max_length": 64}, "rate": 1e-4, "none": None}


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    local = request.param == "local"
    return Storage(str(tmp_path) if local else f"memory://bucket-{uuid.uuid4().hex}")


def make(storage: Storage) -> Stage[TokensSummary]:
    return Stage(storage, TOKENS, INPUTS)


@pytest.fixture
def done(storage: Storage) -> Stage[TokensSummary]:
    """A finished stage, as another process sees it."""
    stage = make(storage)
    storage.write_bytes(stage.path("a.bin"), b"0123456789")
    storage.write_bytes(stage.path("deep/b.bin"), b"abc")
    stage.publish(["a.bin", "deep/b.bin"], SUMMARY, 1.234)
    return make(storage)


def test_a_fingerprint_is_the_same_in_any_order_and_any_process() -> None:
    turned = dict(reversed(INPUTS.items()))
    assert fingerprint(turned) == fingerprint(INPUTS)
    code = f"from smt_ray.artifacts.stages import fingerprint; print(fingerprint({turned!r}))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == fingerprint(INPUTS)


def test_a_fingerprint_never_changes() -> None:
    """A change of how it is made would make every stored stage useless."""
    assert fingerprint({"a": [1, 2.5, None, "é"], "b": {"c": True}}) == "41f8aebed0c6"


def test_a_fingerprint_changes_with_every_part_of_the_inputs() -> None:
    others = [
        {**INPUTS, "rows": "abd"},
        {**INPUTS, "data": {"max_length": 65}},
        {**INPUTS, "rate": 1.0000001e-4},
        {**INPUTS, "none": 0},
        {**INPUTS, "more": None},
    ]
    assert len({fingerprint(each) for each in [INPUTS, *others]}) == 6


def test_the_version_of_a_kind_of_stage_is_in_its_name(storage: Storage) -> None:
    newer = Stage(storage, replace(TOKENS, version=99), INPUTS)
    assert newer.name != make(storage).name


def test_a_stage_is_finished_by_its_manifest_and_not_by_its_files(storage: Storage) -> None:
    stage = make(storage)
    assert not stage.is_done()
    storage.write_bytes(stage.path("a.bin"), b"0123456789")
    assert not make(storage).is_done()
    assert not make(storage).verify()
    stage.publish(["a.bin"], SUMMARY, 0.5)
    assert make(storage).is_done()
    assert make(storage).verify()


def test_a_finished_stage_is_read_from_its_manifest(done: Stage[TokensSummary]) -> None:
    found = done.read()
    assert (found.summary, found.seconds) == (SUMMARY, 1.23)
    assert {file: digest.bytes for file, digest in found.files.items()} == {
        "a.bin": 10, "deep/b.bin": 3
    }  # fmt: skip


def test_the_process_that_made_a_stage_reads_the_same(storage: Storage) -> None:
    stage = make(storage)
    storage.write_bytes(stage.path("a.bin"), b"x")
    published = stage.publish(["a.bin"], SUMMARY, 0.5)
    assert stage.read() is published
    assert make(storage).read() == published


def test_an_unfinished_stage_cannot_be_read(storage: Storage) -> None:
    with pytest.raises(UserError, match="must be a finished stage") as caught:
        make(storage).read()
    assert caught.value.field == make(storage).uri


def test_the_manifest_is_written_last(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make(storage)
    storage.write_bytes(stage.path("a.bin"), b"x")
    written: list[str] = []
    write = storage.write_bytes

    def spy(path: str, content: bytes) -> None:
        written.append(path)
        write(path, content)

    monkeypatch.setattr(storage, "write_bytes", spy)
    stage.publish(["a.bin"], SUMMARY, 0.0)
    assert written == [stage.path(MANIFEST)]


def test_a_file_that_was_not_written_cannot_be_published(storage: Storage) -> None:
    stage = make(storage)
    with pytest.raises(OSError, match="missing"):
        stage.publish(["missing"], SUMMARY, 0.0)
    assert not make(storage).is_done()


def truncate(stage: Stage[Any]) -> None:
    stage.storage.write_bytes(stage.path("deep/b.bin"), b"ab")


def edit(stage: Stage[Any]) -> None:
    stage.storage.write_bytes(stage.path("deep/b.bin"), b"abd")


def remove(stage: Stage[Any]) -> None:
    stage.storage._fs.delete_file(stage.storage.key(stage.path("deep/b.bin")))


@pytest.mark.parametrize("harm", [truncate, edit, remove])
@pytest.mark.parametrize("look", [Stage.verify, lambda s: Stage.open(s.storage, s.name)])
def test_a_harmed_artifact_is_noticed_and_named(
    done: Stage[Any], harm: Callable[[Stage[Any]], None], look: Callable[[Stage[Any]], Any]
) -> None:
    harm(done)
    with pytest.raises(UserError) as caught:
        look(done)
    assert caught.value.field == done.storage.uri(done.path("deep/b.bin"))
    assert done.uri in caught.value.fix


def test_reading_a_stage_does_not_check_its_files(done: Stage[Any]) -> None:
    remove(done)
    assert done.is_done()
    assert done.read().summary == SUMMARY
    assert Stage.at(done.storage, done.name).read().summary == SUMMARY


def test_files_are_hashed_once(done: Stage[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert done.verify()
    monkeypatch.setattr(done.storage, "digest", None)
    assert done.verify()


def refusal(look: Callable[[], Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        look()
    assert "\n" not in str(caught.value)
    return caught.value


def check_refused(stage: Stage[Any]) -> None:
    """Each way of reading names the damaged manifest and what to do about it."""
    place = stage.storage.uri(stage.path(MANIFEST))
    looks: list[Callable[[], Any]] = [
        stage.read,
        stage.verify,
        lambda: Stage.at(stage.storage, stage.name).read(),
        lambda: Stage.open(stage.storage, stage.name),
    ]
    for error in map(refusal, looks):
        assert error.field == place
        assert error.fix == f"delete {stage.uri} to make the stage again"


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_truncated_manifest_is_noticed_and_named(done: Stage[Any], cut: int) -> None:
    place = done.path(MANIFEST)
    done.storage.write_bytes(place, done.storage.read_bytes(place)[:cut])
    check_refused(done)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", "3", '{"stage": 3}', "[" * 5000, '{"a":' * 5000, "\xff"],
    ids=lambda text: text[:10],
)
def test_a_file_that_is_not_a_manifest_is_noticed_and_named(done: Stage[Any], text: str) -> None:
    done.storage.write_bytes(done.path(MANIFEST), text.encode("latin-1"))
    check_refused(done)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "tokens-000000000000"},
        {"inputs": {"other": 1}},
        {"files": None},
        {"files": {"a.bin": {"bytes": "many"}}},
        {"summary": {}},
        {"summary": {"training": {"num_rows": "many"}}},
        {"seconds": None},
        {"unknown": 1},
    ],
)
def test_a_manifest_with_a_bad_field_is_noticed_and_named(
    done: Stage[Any], change: dict[str, Any]
) -> None:
    place = done.path(MANIFEST)
    done.storage.write_json(place, {**done.storage.read_json(place), **change})
    check_refused(done)


def test_a_manifest_of_another_stage_is_noticed(done: Stage[Any]) -> None:
    place = done.path(MANIFEST)
    changed = {**done.storage.read_json(place), "inputs": {"other": 1}}
    done.storage.write_json(place, changed)
    with pytest.raises(UserError, match=f"must be the manifest of {done.name}"):
        done.read()


def test_a_stage_is_opened_by_its_name_alone(done: Stage[Any]) -> None:
    opened = Stage.open(done.storage, done.name)
    assert (opened.kind, opened.name, opened.inputs) == (TOKENS, done.name, done.inputs)
    assert opened.read() == done.read()
    with opened.storage.local(opened.path("deep/b.bin")) as file:
        assert file.read_bytes() == b"abc"


@pytest.mark.parametrize("name", ["tokens-0123456789ab", "nothing-0123456789ab", "tokens", ""])
def test_a_stage_that_is_not_there_cannot_be_opened(storage: Storage, name: str) -> None:
    with pytest.raises(UserError, match=r"must be a finished stage|name: must be at most 120"):
        Stage.open(storage, name)


def test_an_unfinished_stage_is_found_by_its_name(storage: Storage) -> None:
    stage = Stage.at(storage, "warmup-0123456789ab")
    assert (stage.kind, stage.name) == (WARMUP, "warmup-0123456789ab")
    assert stage.path("a") == "stages/warmup-0123456789ab/a"
    assert not stage.is_done()


def test_a_stage_of_an_older_version_of_its_kind_opens(storage: Storage) -> None:
    older = Stage(storage, replace(TOKENS, version=TOKENS.version - 1), INPUTS)
    storage.write_bytes(older.path("a.bin"), b"x")
    older.publish(["a.bin"], SUMMARY, 0.0)
    assert Stage.open(storage, older.name).inputs["version"] == TOKENS.version - 1


def test_a_manifest_is_plain_json(done: Stage[Any]) -> None:
    text = done.storage.read_bytes(done.path(MANIFEST)).decode()
    assert json.loads(text)["seconds"] == 1.23
