"""A stage is named by its inputs and done by its manifest alone."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smt_ray.artifacts.stages import MANIFEST, Stage, fingerprint
from smt_ray.artifacts.storage import Storage
from smt_ray.errors import UserError

INPUTS = {"rows": "abc", "data": {"max_length": 64}, "rate": 1e-4, "none": None}


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    local = request.param == "local"
    return Storage(str(tmp_path) if local else f"memory://bucket-{uuid.uuid4().hex}")


def make(storage: Storage, inputs: dict[str, Any] = INPUTS) -> Stage:
    return Stage(storage, "tokens", inputs)


@pytest.fixture
def done(storage: Storage) -> Stage:
    """A finished stage, seen anew."""
    stage = make(storage)
    storage.write_bytes(stage.path("a.bin"), b"0123456789")
    storage.write_bytes(stage.path("deep/b.bin"), b"abc")
    stage.publish(["a.bin", "deep/b.bin"], {"num_rows": 3}, 1.234)
    return make(storage)


def test_a_fingerprint_is_the_same_in_any_order_and_any_process() -> None:
    turned = dict(reversed(INPUTS.items()))
    assert fingerprint(turned) == fingerprint(INPUTS)
    code = f"from smt_ray.artifacts.stages import fingerprint; print(fingerprint({turned!r}))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == fingerprint(INPUTS)


def test_a_fingerprint_is_known_by_heart() -> None:
    """Whoever changes how it is made orphans every stage that anybody has kept."""
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


def test_the_version_of_a_kind_of_stage_is_in_its_name(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(storage).name
    monkeypatch.setitem(Stage.__init__.__globals__["STAGE_VERSIONS"], "tokens", 99)
    assert make(storage).name != before


def test_a_stage_is_done_by_its_manifest_and_not_by_its_files(storage: Storage) -> None:
    stage = make(storage)
    assert stage.manifest() is None
    storage.write_bytes(stage.path("a.bin"), b"0123456789")
    assert make(storage).manifest() is None
    assert not make(storage).is_done()
    stage.publish(["a.bin"], {"x": 1}, 0.5)
    assert make(storage).is_done()
    manifest = make(storage).manifest()
    assert manifest is not None
    assert manifest["summary"] == {"x": 1}
    assert manifest["inputs"] == stage.inputs
    assert manifest["files"]["a.bin"]["bytes"] == 10


def test_the_manifest_is_written_last(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make(storage)
    storage.write_bytes(stage.path("a.bin"), b"x")
    written: list[str] = []
    write = storage.write_bytes

    def spy(path: str, content: bytes) -> None:
        written.append(path)
        write(path, content)

    monkeypatch.setattr(storage, "write_bytes", spy)
    stage.publish(["a.bin"], {}, 0.0)
    assert written == [stage.path(MANIFEST)]


def test_a_file_that_was_not_written_cannot_be_published(storage: Storage) -> None:
    stage = make(storage)
    with pytest.raises(OSError, match="missing"):
        stage.publish(["missing"], {}, 0.0)
    assert make(storage).manifest() is None


def truncate(stage: Stage) -> None:
    stage.storage.write_bytes(stage.path("deep/b.bin"), b"ab")


def edit(stage: Stage) -> None:
    stage.storage.write_bytes(stage.path("deep/b.bin"), b"abd")


def remove(stage: Stage) -> None:
    stage.storage._fs.delete_file(stage.storage.key(stage.path("deep/b.bin")))


@pytest.mark.parametrize("harm", [truncate, edit, remove])
@pytest.mark.parametrize("look", [Stage.manifest, lambda s: Stage.open(s.storage, s.name)])
def test_a_harmed_artifact_is_noticed_and_named(
    done: Stage, harm: Callable[[Stage], None], look: Callable[[Stage], Any]
) -> None:
    harm(done)
    with pytest.raises(UserError) as caught:
        look(done)
    assert caught.value.field == done.storage.uri(done.path("deep/b.bin"))
    assert done.uri in caught.value.fix


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_truncated_manifest_is_noticed_and_named(done: Stage, cut: int) -> None:
    place = done.path(MANIFEST)
    done.storage.write_bytes(place, done.storage.read_bytes(place)[:cut])
    with pytest.raises(UserError) as caught:
        done.manifest()
    assert caught.value.field == done.storage.uri(place)
    assert done.uri in caught.value.fix


@pytest.mark.parametrize(
    "change", [{"stage": "tokens-000000000000"}, {"inputs": {"other": 1}}, {"files": None}]
)
def test_a_manifest_that_is_not_this_stages_is_noticed(done: Stage, change: dict[str, Any]) -> None:
    place = done.path(MANIFEST)
    done.storage.write_json(place, {**done.storage.read_json(place), **change})
    with pytest.raises(UserError, match=f"must be the manifest of {done.name}"):
        done.manifest()


def test_a_stage_is_opened_by_its_name_alone(done: Stage) -> None:
    opened = Stage.open(done.storage, done.name)
    assert (opened.kind, opened.name, opened.inputs) == ("tokens", done.name, done.inputs)
    assert opened.manifest() == done.manifest()
    with opened.local("deep/b.bin") as file:
        assert file.read_bytes() == b"abc"


def test_a_stage_that_is_not_there_cannot_be_opened(storage: Storage) -> None:
    with pytest.raises(UserError, match="must be a finished stage"):
        Stage.open(storage, "tokens-0123456789ab")


def test_an_old_stage_opens_though_its_kind_has_a_new_version(
    done: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Stage.__init__.__globals__["STAGE_VERSIONS"], "tokens", 99)
    assert Stage.open(done.storage, done.name).name == done.name


def test_a_manifest_is_plain_json(done: Stage) -> None:
    text = done.storage.read_bytes(done.path(MANIFEST)).decode()
    assert json.loads(text)["seconds"] == 1.23
