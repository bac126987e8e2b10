"""Temporary local folders, which are removed even if their process is killed.

A folder is removed when its context closes. If the process is killed, the next process that makes
a folder removes it. Each folder has a lock, which the kernel releases when its process ends. The
lock therefore tells abandoned folders from folders in use, even those of other containers on the
same disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _LOCK = "smt_ray_scratch_", ".lock"
_ANY_LOCK = f"{_PREFIX}{'[0-9a-f]' * 32}{_LOCK}"  # matches the names that are made here only

INCOMPLETE = ".part"
"""The ending of a file's name while it is written."""
_ABANDONED_S = 3600.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the temporary directory (TMPDIR); it exists while the context is open."""
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    folder = parent / f"{_PREFIX}{uuid.uuid4().hex}"
    lock = folder.with_suffix(_LOCK)
    holder = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        _remove(folder, lock)
        os.close(holder)


def abandoned_folders() -> list[Path]:
    """The folders in the temporary directory whose processes were killed."""
    return [folder for folder, _ in _abandoned(Path(tempfile.gettempdir()))]


def remove_abandoned() -> None:
    """Removes the folders in the temporary directory whose processes were killed."""
    _remove_abandoned(Path(tempfile.gettempdir()))


def incomplete_files(root: Path) -> list[Path]:
    """The files below a folder that a killed process left incomplete; none was written lately."""
    found = []
    for file in root.rglob(f"*.????????{INCOMPLETE}"):
        with suppress(FileNotFoundError):  # it is complete and has its name now
            if time.time() - file.stat().st_mtime > _ABANDONED_S:
                found.append(file)
    return found


def remove_incomplete(root: Path) -> None:
    """Removes :func:`incomplete_files`."""
    for file in incomplete_files(root):
        file.unlink(missing_ok=True)


def _remove_abandoned(parent: Path) -> None:
    for folder, lock in _abandoned(parent):
        _remove(folder, lock)


def _abandoned(parent: Path) -> Iterator[tuple[Path, Path]]:
    """The folders whose processes have ended, with their locks, which are held meanwhile."""
    for lock in parent.glob(_ANY_LOCK):
        try:
            holder = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another process removed it, or it belongs to another user
            continue
        try:
            with suppress(BlockingIOError):
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield lock.with_suffix(""), lock
        finally:
            os.close(holder)


def _remove(folder: Path, lock: Path) -> None:
    # The lock is removed last, since a folder without a lock is never found again.
    shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)
