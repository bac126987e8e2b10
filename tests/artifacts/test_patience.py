"""A storage that does not answer is tried again for a while; local disks and refusals are not."""

from __future__ import annotations

import errno

import pytest

from smt_ray.artifacts.patience import VARIABLE, is_away, patient
from smt_ray.errors import UserError

AWAY = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7")


class Kept:
    """A storage whose tries end as they are told, and then well."""

    def __init__(self, *errors: Exception, is_local: bool = False) -> None:
        self.is_local, self.root = is_local, "s3://bucket/runs"
        self._errors, self.num_tries = list(errors), 0

    @patient
    def read(self, path: str, *, size: int = 1) -> str:
        self.num_tries += 1
        if self._errors:
            raise self._errors.pop(0)
        return path * size


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smt_ray.artifacts.patience._FIRST_S", 0.001)
    monkeypatch.setattr("smt_ray.artifacts.patience._LONGEST_S", 0.002)
    monkeypatch.setattr("smt_ray.artifacts.patience._given_up", set())


def test_it_is_tried_again_until_it_answers() -> None:
    kept = Kept(AWAY, TimeoutError(), ConnectionResetError())
    assert kept.read("a", size=2) == "aa"
    assert kept.num_tries == 4


def test_one_that_stays_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.05")
    kept = Kept(*[AWAY] * 1_000)
    with pytest.raises(UserError, match=r"must answer, and it did not .*NETWORK") as raised:
        kept.read("a")
    assert (raised.value.field, raised.value.got) == ("storage", kept.root)
    assert kept.num_tries > 2


def test_it_is_waited_for_once_only_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.05")
    with pytest.raises(UserError):
        Kept(*[AWAY] * 1_000).read("a")
    again = Kept(AWAY)
    with pytest.raises(UserError):
        again.read("a")
    assert again.num_tries == 1
    assert again.read("a") == "a"
    assert Kept(AWAY).read("a") == "a"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("gone"),
        PermissionError("no"),
        IsADirectoryError("a folder"),
        OSError("AWS Error ACCESS_DENIED during PutObject operation"),
        OSError("AWS Error NO_SUCH_BUCKET during HeadObject operation"),
        ValueError("a defect"),
    ],
)
def test_what_waiting_does_not_change_is_raised_at_once(error: Exception) -> None:
    kept = Kept(error)
    with pytest.raises(type(error)):
        kept.read("a")
    assert kept.num_tries == 1
    assert not is_away(error)


def test_a_local_disk_is_not_waited_for() -> None:
    kept = Kept(OSError(errno.EIO, "broken"), is_local=True)
    with pytest.raises(OSError, match="broken"):
        kept.read("a")
    assert kept.num_tries == 1


def test_a_file_that_is_written_again_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    from smt_ray.artifacts.storage import Storage

    storage = Storage("memory://retried")
    memory, opened = fsspec.filesystem("memory"), []
    whole = type(memory)._open

    def fails_once(self: object, path: str, mode: str = "rb", **options: object) -> object:
        if "w" in mode and not opened:
            opened.append(path)
            raise OSError("the network is gone")
        return whole(self, path, mode, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(memory), "_open", fails_once)
    storage.write_bytes("a/b", b"content")
    assert opened
    assert storage.read_bytes("a/b") == b"content"
