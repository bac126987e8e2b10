"""The folder of Ray's sessions on this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ray._private import ray_constants

from smt_ray.cluster.private_session import on_loopback, session_folder
from smt_ray.errors import UserError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path."""
    with TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_only_the_user_can_enter(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = Path(session_folder()).parent
    assert private.parent == temporary
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    private.chmod(0o777)
    assert Path(session_folder()).parent == private
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    monkeypatch.setenv("RAY_TMPDIR", str(temporary / "other"))
    assert Path(session_folder()).parent.parent == temporary / "other"


def test_a_folder_that_another_user_made_is_refused(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = temporary / f"ray-{os.getuid()}"
    (temporary / "elsewhere").mkdir()
    place.symlink_to(temporary / "elsewhere")
    with pytest.raises(UserError, match="must be a folder that this user has made"):
        session_folder()
    place.unlink()
    session_folder()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    place.rename(temporary / f"ray-{other}")
    with pytest.raises(UserError, match="must be a folder that this user has made"):
        session_folder()


def test_a_path_that_is_too_long_for_sockets_is_named(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary / ("x" * 60)))
    with pytest.raises(UserError, match=r"TMPDIR: must have at most \d+ characters") as raised:
        session_folder()
    assert raised.value.fix
    most = int(str(raised.value).partition("at most ")[2].split()[0])
    longest = str(temporary / "x").ljust(most, "x")
    monkeypatch.setenv("TMPDIR", longest)
    folder = session_folder()
    assert folder.startswith(longest)
    sockets = "session_2026-11-29_12-00-00_000000_4194304/sockets/plasma_store"
    assert len(f"{folder}/{sockets}") == 107


def test_the_folders_of_the_latest_ended_sessions_are_kept(temporary: Path) -> None:
    folder = Path(session_folder())
    ended = [folder / f"session_2026-01-0{day}_00-00-00_000000_4194304" for day in range(1, 9)]
    running = folder / f"session_2025-01-01_00-00-00_000000_{os.getpid()}"
    for session in (*ended, running):
        (session / "logs").mkdir(parents=True)
    (folder / "session_latest").symlink_to(ended[-1])
    session_folder()
    left = {path.name for path in folder.iterdir()}
    assert left == {running.name, "session_latest", *(path.name for path in ended[-5:])}


def test_rays_own_setting_is_as_before_afterwards() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    with on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert before == ray_constants.ENABLE_RAY_CLUSTER
