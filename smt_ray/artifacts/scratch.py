"""Local folders for what is on its way: gone when their block ends, after a kill at the next use.

A folder is held by a lock that the kernel lets go of with the process, whichever way it ends; so
what a killed process left behind (a checkpoint being written, a model being read) is told from what
another one is using, in other containers on the same disk too.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _LOCK = "smt_ray_scratch_", ".lock"
_ANY = f"{_PREFIX}{'[0-9a-f]' * 32}{_LOCK}"  # and no folder that somebody else named


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the machine's temporary directory (TMPDIR), for the block's time."""
    parent = Path(tempfile.gettempdir())
    _remove_left_behind(parent)
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


def _remove_left_behind(parent: Path) -> None:
    """Removes the folders whose processes are no more."""
    for lock in parent.glob(_ANY):
        try:
            holder = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # gone by now, or another user's
            continue
        try:
            with suppress(BlockingIOError):
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(lock.with_suffix(""), lock)
        finally:
            os.close(holder)


def _remove(folder: Path, lock: Path) -> None:
    # The lock last: without it nobody would look for the folder.
    shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)
