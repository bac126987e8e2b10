"""A storage is a local folder or any URI of fsspec."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs as pafs
import pytest

from smt_ray.artifacts.storage import Storage, local_copy
from smt_ray.documents.run import RunManifest
from smt_ray.errors import UserError


@pytest.fixture(autouse=True)
def _own_temporary_directory(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


@pytest.fixture(params=["folder", "file://", "memory://"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "memory://":
        return Storage(f"memory://bucket-{uuid.uuid4().hex}/prefix")
    root = tmp_path / "some" / "where"
    return Storage(str(root) if request.param == "folder" else root.as_uri())


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write_bytes("a/b/c.bin", b"one")
    storage.write_bytes("a/b/c.bin", b"two")  # replaces the first
    storage.write_json("a/value.json", {"x": [1, None, "é"]})
    assert storage.read_bytes("a/b/c.bin") == b"two"
    assert storage.read_bytes("a", "b", "c.bin") == b"two"
    assert storage.read_json("a/value.json") == {"x": [1, None, "é"]}
    assert storage.exists("a/b")
    assert storage.exists("a", "value.json")
    assert not storage.exists("a/c.bin")


def test_files_and_folders_are_listed_in_order(storage: Storage) -> None:
    for path in ("x/b/2", "x/b/1", "x/a", "x/c/d/e", "y/f"):
        storage.write_bytes(path, b"")
    assert storage.list_files("") == ["x/a", "x/b/1", "x/b/2", "x/c/d/e", "y/f"]
    assert storage.list_files("x") == ["a", "b/1", "b/2", "c/d/e"]
    assert storage.list_folders("x") == ["b", "c"]
    assert storage.list_files("nowhere") == []
    assert storage.list_folders("nowhere") == []


def test_a_digest_is_size_and_sha256(storage: Storage) -> None:
    content = bytes(range(256)) * 20_000  # more than is read at once
    storage.write_bytes("big", content)
    found = storage.digest("big")
    assert (found.bytes, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_folder_is_fetched_to_a_local_path(storage: Storage) -> None:
    storage.write_bytes("adapter/config.json", b"{}")
    storage.write_bytes("adapter/deep/weights", b"w")
    with storage.local("adapter") as local:
        assert (local / "config.json").read_bytes() == b"{}"
        assert (local / "deep" / "weights").read_bytes() == b"w"
    with storage.local("adapter/config.json") as local:
        assert local.read_bytes() == b"{}"
    with local_copy(storage.uri("adapter")) as local:
        assert (local / "deep" / "weights").read_bytes() == b"w"


def test_a_copy_is_removed_after_its_context_and_a_local_folder_is_kept(storage: Storage) -> None:
    storage.write_bytes("adapter/config.json", b"{}")
    storage.write_bytes("adapter/deep/weights", b"w")
    with pytest.raises(RuntimeError), storage.local("adapter") as local:  # noqa: PT012
        assert (local / "deep" / "weights").exists()
        raise RuntimeError
    assert local.exists() == storage.is_local
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_a_copy_may_leave_files_out(storage: Storage) -> None:
    storage.write_bytes("model/config.json", b"{}")
    storage.write_bytes("model/model.safetensors", b"large")
    with storage.local("model", without=(".safetensors",)) as local:
        assert (local / "config.json").read_bytes() == b"{}"
        assert (local / "model.safetensors").exists() == storage.is_local


def test_a_mapped_file_can_be_read_after_its_copy_is_removed() -> None:
    storage = Storage(f"memory://bucket-{uuid.uuid4().hex}")
    storage.write_bytes("file", b"content")
    with storage.local("file") as local, local.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert not local.exists()
    assert mapped[:] == b"content"


def test_a_local_file_is_copied_into_the_storage(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"content")
    storage.put_file(tmp_path / "made", "x/there")
    assert storage.read_bytes("x/there") == b"content"
    if storage.is_local:  # a file that is already there is not copied
        storage.put_file(storage.uri("x/there"), "x/there")
        assert storage.read_bytes("x/there") == b"content"


def test_a_writable_storage_is_left_as_it_was(storage: Storage) -> None:
    storage.check_writable()
    assert storage.list_files("") == []


def test_the_uri_of_a_folder_opens_it(storage: Storage) -> None:
    storage.write_bytes("a/b", b"x")
    assert Storage(storage.uri("a")).read_bytes("b") == b"x"


def test_a_memory_uri_uses_the_file_system_of_fsspec() -> None:
    Storage("memory://here/runs").write_bytes("a.txt", b"x")
    assert fsspec.filesystem("memory").cat("/here/runs/a.txt") == b"x"


def test_a_file_uri_is_the_folder(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    assert storage.is_local
    assert storage.root == Storage(str(tmp_path)).root == str(tmp_path)


def test_a_relative_root_does_not_follow_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("here")
    monkeypatch.chdir("/")
    storage.write_bytes("a", b"x")
    assert (tmp_path / "here" / "a").read_bytes() == b"x"


def test_a_root_may_start_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage("~/runs").root == str(tmp_path / "runs")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_write_that_fails_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    storage = Storage(f"{scheme}{tmp_path}")
    storage.write_bytes("file", b"old")

    class Breaking:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def write(self, content: bytes) -> None:
            self.stream.write(content[:1])
            raise OSError("no space left on device")

    class Full(pafs.LocalFileSystem):
        def open_output_stream(self, path: str, *args: Any, **kwargs: Any) -> Any:
            return Breaking(super().open_output_stream(path, *args, **kwargs))

    monkeypatch.setattr(storage, "_fs", Full())
    with pytest.raises(OSError, match="no space left"):
        storage.write_bytes("file", b"new and longer")
    assert storage.read_bytes("file") == b"old"


def test_a_local_file_is_renamed_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    replace = os.replace

    def spy(source: str, target: str) -> None:
        seen.append((Path(source).read_bytes(), Path(target).exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    storage = Storage(str(tmp_path))
    storage.write_bytes("file", b"content")
    assert seen == [(b"content", False)]
    assert storage.list_files("") == ["file"]


@pytest.mark.parametrize("below", ["", "/deeper", "/deeper/still"])
def test_a_storage_below_a_regular_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    root = f"{tmp_path}/file{below}"
    with pytest.raises(UserError, match=r"^storage: must be writable") as caught:
        Storage(root).check_writable()
    assert caught.value.got == root
    assert "storage=" in caught.value.fix


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="no file system serves this URI") as caught:
        Storage("gopher://hole/x")
    assert (caught.value.field, caught.value.got) == ("storage", "gopher://hole/x")


def test_sizes_and_times_are_told_and_files_and_folders_deleted(storage: Storage) -> None:
    for place in ("stages/a/one", "stages/a/b/two", "stages/c/three", "top"):
        storage.write_bytes(place, place.encode())
    assert storage.sizes("stages") == {"a/one": 12, "a/b/two": 14, "c/three": 14}
    assert storage.sizes("", recursive=False) == {"top": 3}
    assert storage.sizes("nothing") == {}
    assert not storage.changed_s("top") <= 0  # memory:// tells no times
    storage.delete_folder("stages/a")
    storage.delete_folder("stages/nothing")
    storage.delete_file("top")
    assert storage.list_files("") == ["stages/c/three"]
    with pytest.raises(FileNotFoundError):
        storage.changed_s("top")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (FileNotFoundError(2, "No such file"), "delete it"),
        (IsADirectoryError(21, "Is a directory"), "delete it"),
        (ValueError("no JSON"), "delete it"),
        (PermissionError(13, "Permission denied"), "correct its permissions"),
        (OSError(5, "Input/output error"), "check the disk or the store"),
    ],
)
def test_a_document_that_is_out_of_reach_is_not_to_be_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, fix: str
) -> None:
    def fails(self: Storage, path: str) -> bytes:
        raise error

    monkeypatch.setattr(Storage, "read_bytes", fails)
    with pytest.raises(UserError, match=r"run\.json: cannot be read") as raised:
        Storage(str(tmp_path)).read_document(RunManifest, "run.json", fix="delete it")
    assert fix in raised.value.fix
    assert ("delete" in raised.value.fix) is (fix == "delete it")
