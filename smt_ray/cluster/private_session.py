"""A session of Ray on this machine that other users and other machines cannot reach.

By default, Ray listens on all network interfaces, and everyone on the machine may write into its
folders.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from ray._private import ray_constants

from smt_ray.errors import UserError

_KEPT = 5  # folders of ended sessions, for their logs
_LONGEST = 107 - len("/session_2026-11-29_12-00-00_000000_4194304/sockets/plasma_store")
"""The most characters of a folder whose sessions have sockets, which Linux allows 107."""


@contextmanager
def on_loopback() -> Iterator[None]:
    """While it is open, a session that starts here listens on the loopback interface only.

    Ray does so on systems on which it has no clusters of several nodes. It has no option for it:
    an address of the loopback interface is replaced by another one of the machine.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def session_folder() -> str:
    """The folder of this user's sessions, which no other user can enter.

    It lies in RAY_TMPDIR, TMPDIR or /tmp. What ended sessions left is removed, except the
    latest folders, for their logs.

    Raises:
        UserError: Another user has made the folder, or its path is too long for sockets.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    parent = os.path.abspath(os.environ[variable] if variable else "/tmp")
    private = Path(parent) / f"ray-{os.getuid()}"
    # Ray makes its own folder one that everyone may write into, so it is one inside.
    folder = private / "r"  # short, for the paths of sockets
    if len(str(folder)) > _LONGEST:
        raise UserError(
            variable or "RAY_TMPDIR",
            f"must have at most {_LONGEST - len(str(folder)) + len(parent)} characters, since the"
            " paths of Ray's sockets begin with it",
            got=parent,
            fix="set RAY_TMPDIR to a shorter folder of this machine, such as /tmp",
        )
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(private)
    _remove_ended(folder)
    return str(folder)


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(
            str(folder),
            "must be a folder that this user has made, since Ray's sessions lie there",
            fix="remove it, or set RAY_TMPDIR to another folder",
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def _remove_ended(folder: Path) -> None:
    """Removes what ended sessions left: processes, and all folders but the latest ones."""
    ended = [
        session
        for session in sorted(folder.glob("session_*_*"))
        if not session.is_symlink() and not psutil.pid_exists(int(session.name.rpartition("_")[2]))
    ]
    if ended:
        _end_processes(ended)
    for session in ended[:-_KEPT]:
        shutil.rmtree(session, ignore_errors=True)


def _end_processes(sessions: list[Path]) -> None:
    """Ends the processes that write into the folders of sessions whose driver was killed.

    Ray's agents go on for minutes then.
    """
    for process in psutil.process_iter(["name"]):
        if str(process.info["name"]).startswith("ray::"):
            with suppress(psutil.Error):
                files = [Path(file.path) for file in process.open_files()]
                if any(session in file.parents for file in files for session in sessions):
                    process.kill()
