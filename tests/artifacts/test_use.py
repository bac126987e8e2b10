"""A storage is not cleaned while a living process uses it, and not used while it is cleaned."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smt_ray.artifacts import use
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import check_unused, cleaning, dead_marks, in_use, living_uses
from smt_ray.errors import UserError
from tests.object_store import BUCKET, s3_server

USER = """
import sys, time
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use
with in_use(Storage(sys.argv[1]), "run theirs"):
    print("used", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "kept"))


@contextmanager
def another_process(storage: Storage) -> Iterator[subprocess.Popen[str]]:
    """A process that uses the storage; it is killed at the end."""
    user = subprocess.Popen(
        [sys.executable, "-c", USER, storage.root], stdout=subprocess.PIPE, text=True
    )
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == "used\n"
        yield user
    finally:
        user.send_signal(signal.SIGKILL)
        user.wait()


def test_a_storage_in_use_cannot_be_cleaned_and_the_user_is_named(storage: Storage) -> None:
    with in_use(storage, "run mine"):
        with pytest.raises(UserError, match=r"run mine \(process \d+ on .*\)"), cleaning(storage):
            pass
        assert [found.what for found in living_uses(storage).values()] == ["run mine"]
    assert storage.list_files("in_use") == []
    with cleaning(storage):
        pass


def test_uses_do_not_exclude_each_other(storage: Storage) -> None:
    with in_use(storage, "comparison all"), in_use(storage, "run one"):
        assert len(living_uses(storage)) == 2


def test_a_storage_that_is_cleaned_cannot_be_used(storage: Storage) -> None:
    with cleaning(storage):
        with (
            pytest.raises(UserError, match=r"^storage: is being cleaned by clean"),
            in_use(storage, "run mine"),
        ):
            pass
        with pytest.raises(UserError, match=r"is in use by clean"), cleaning(storage):
            pass
    with in_use(storage, "run mine"):
        pass


def test_the_mark_of_a_killed_process_of_this_machine_counts_no_more(storage: Storage) -> None:
    with another_process(storage):
        with pytest.raises(UserError, match="run theirs"):
            check_unused(storage)
        assert dead_marks(storage) == []
    assert len(dead_marks(storage)) == 1
    with cleaning(storage):
        pass


def test_a_mark_of_another_machine_counts_while_it_is_refreshed(storage: Storage) -> None:
    place = Path(storage.key("in_use/theirs.json"))
    mark = {"what": "run theirs", "host": "far", "kernel": "other", "pid": 7, "started_ms": 0}
    storage.write_json("in_use/theirs.json", mark)
    with pytest.raises(UserError, match=r"run theirs \(process 7 on far\)"):
        check_unused(storage)
    old = time.time() - 301
    os.utime(place, (old, old))
    check_unused(storage)
    assert dead_marks(storage) == ["in_use/theirs.json"]


def test_a_mark_that_is_being_written_counts(storage: Storage) -> None:
    storage.write_bytes("in_use/new.json", b"{")
    with pytest.raises(UserError, match="a process that starts"):
        check_unused(storage)


def test_a_mark_is_refreshed(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "_REFRESH_EVERY_S", 0.05)
    with in_use(storage, "run mine"):
        (file,) = (storage.key("in_use", name) for name in storage.list_files("in_use"))
        os.utime(file, (0, 0))
        until = time.monotonic() + 10
        while os.stat(file).st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert json.loads(Path(file).read_text())["what"] == "run mine"
        (living,) = living_uses(storage).values()  # it is still locked
        assert living.pid == os.getpid()


def test_an_object_store_tells_users_by_the_age_of_their_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with s3_server() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        storage = Storage(f"s3://{BUCKET}/used")
        with in_use(storage, "run mine"):
            with pytest.raises(UserError, match="run mine"):
                check_unused(storage)
            monkeypatch.setattr(use, "_PATIENCE_S", -1.0)
            check_unused(storage)
        assert storage.list_files("") == []


def test_a_mark_counts_where_files_have_no_times() -> None:
    storage = Storage("memory://used/here")
    with in_use(storage, "run mine"):
        assert math.isnan(storage.changed_s(next(iter(living_uses(storage)))))
        with pytest.raises(UserError, match="run mine"):
            check_unused(storage)
