"""Marks of the processes that use a storage, so that a clean deletes nothing under their hands.

A process that writes stages has a mark while it works, and so has a process that cleans. Each first
sets its own mark and then looks for the other's, so never do both go on. A killed process leaves
its mark. On the same machine, a lock on the mark's file shows this, because the kernel releases it
when a process ends. Elsewhere, a mark counts while it is refreshed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smt_ray.artifacts.layout import USES_FOLDER
from smt_ray.artifacts.storage import Storage
from smt_ray.documents.kept.use import Use
from smt_ray.errors import UserError

_REFRESH_EVERY_S = 30.0
_PATIENCE_S = 300.0  # after which a mark that is not refreshed does not count


@contextmanager
def in_use(storage: Storage, what: str) -> Iterator[None]:
    """Marks the storage as used while the context is open; nothing is cleaned meanwhile.

    Args:
        what: The work of this process, such as ``run NAME``.

    Raises:
        UserError: The storage is being cleaned.
    """
    with _marked(storage, what):
        cleaners = [use for use in living_uses(storage).values() if use.cleans]
        if cleaners:
            raise UserError(
                "storage", f"is being cleaned by {cleaners[0]}", got=storage.root,
                fix="start again when that has ended",
            )  # fmt: skip
        yield


@contextmanager
def cleaning(storage: Storage) -> Iterator[None]:
    """Marks the storage as being cleaned while the context is open.

    Raises:
        UserError: A living process uses the storage.
    """
    with _marked(storage, "clean", cleans=True) as own:
        check_unused(storage, apart_from=own)
        yield


def use_of_run(name: str) -> str:
    """The work of a process that carries out a run."""
    return f"run {name}"


def check_unused(storage: Storage, apart_from: str = "") -> None:
    """Checks that no living process uses the storage, except for one mark.

    Raises:
        UserError: A process uses it.
    """
    others = {place: u for place, u in living_uses(storage).items() if place != apart_from}
    if others:
        raise UserError(
            "--storage",
            f"is in use by {', '.join(map(str, others.values()))}",
            got=storage.root,
            fix="clean it when they have ended; a process that was killed on another machine counts"
            f" for {_PATIENCE_S / 60:.0f} minutes",
        )


def living_uses(storage: Storage) -> dict[str, Use]:
    """The marks of processes that have not ended, by their place in the storage."""
    found: dict[str, Use] = {}
    now: float | None = None
    for place in _marks(storage):
        with suppress(FileNotFoundError):
            use = _read(storage, place)
            if storage.is_local and use.kernel == _kernel():
                is_living = _is_locked(Path(storage.key(place)))
            else:
                now = _clock(storage) if now is None else now
                # A file system that tells no times gives NaN, and then the mark counts.
                is_living = not now - storage.changed_s(place) >= _PATIENCE_S
            if is_living:
                found[place] = use
    return found


def dead_marks(storage: Storage) -> list[str]:
    """The marks of processes that have ended without removing them."""
    living = living_uses(storage)
    return [place for place in _marks(storage) if place not in living]


def _marks(storage: Storage) -> list[str]:
    files = storage.list_files(USES_FOLDER)
    return [f"{USES_FOLDER}/{file}" for file in files if file.endswith(".json")]


@contextmanager
def _marked(storage: Storage, what: str, *, cleans: bool = False) -> Iterator[str]:
    """Has a mark while the context is open; yields its place."""
    place = f"{USES_FOLDER}/{uuid.uuid4().hex}.json"
    use = Use(
        what=what, host=platform.node(), kernel=_kernel(), pid=os.getpid(),
        started_ms=time.time_ns() // 1_000_000, cleans=cleans,
    )  # fmt: skip
    content = use.model_dump_json(indent=2).encode()
    stop = threading.Event()
    with _locked(storage, place):
        _refresh(storage, place, content)
        refresher = threading.Thread(
            target=_refresh_until, args=(storage, place, content, stop), daemon=True
        )
        refresher.start()
        try:
            yield place
        finally:
            stop.set()
            refresher.join()
            with suppress(OSError, UserError):  # a storage that is gone keeps no mark
                storage.delete_file(place)


@contextmanager
def _locked(storage: Storage, place: str) -> Iterator[None]:
    """Locks the file of a mark, if it is a local one."""
    if not storage.is_local:
        yield
        return
    file = Path(storage.key(place))
    file.parent.mkdir(parents=True, exist_ok=True)
    holder = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with suppress(OSError):  # some network volumes have no locks: then refreshing must do
            fcntl.flock(holder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(holder)


def _refresh_until(storage: Storage, place: str, content: bytes, stop: threading.Event) -> None:
    while not stop.wait(_REFRESH_EVERY_S):
        with suppress(OSError, UserError):
            _refresh(storage, place, content)


def _refresh(storage: Storage, place: str, content: bytes) -> None:
    if storage.is_local:  # in place, since a new file would not be locked
        Path(storage.key(place)).write_bytes(content)
    else:
        storage.write_bytes(place, content)


def _read(storage: Storage, place: str) -> Use:
    try:
        return Use.model_validate_json(storage.read_bytes(place))
    except ValueError:  # it is being written, or it is damaged: its age decides
        return Use(what="a process that starts", host="?", kernel="?", pid=0, started_ms=0)


def _is_locked(file: Path) -> bool:
    holder = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return time.time() - file.stat().st_mtime < _PATIENCE_S
    finally:
        os.close(holder)
    return False


def _clock(storage: Storage) -> float:
    """The time of the storage, whose clock may differ from this machine's."""
    place = f"{USES_FOLDER}/.clock-{uuid.uuid4().hex}"
    try:
        storage.write_bytes(place, b"")
    except (OSError, UserError):  # who may only read can delete nothing, and needs no better time
        return time.time()
    try:
        return storage.changed_s(place)
    finally:
        storage.delete_file(place)


def _kernel() -> str:
    """The id that the running kernel drew when it started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()
