"""Processes that tests start, and kill together with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def start(
    arguments: list[Any],
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    umask: int = -1,
) -> subprocess.Popen[bytes]:
    """Starts a process in its own session; by default, it cannot join a running Ray.

    Args:
        umask: The rights that its files do not have; -1 for those of this process.
    """
    if environment is None:
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with log.open("w") as file:
        return subprocess.Popen(
            arguments, stdout=file, stderr=file, start_new_session=True, env=environment,
            cwd=folder, umask=umask,
        )  # fmt: skip


def kill(leader: subprocess.Popen[bytes]) -> None:
    """Kills all processes of a session, and waits until they are gone."""
    for pid in members(leader.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    leader.wait(timeout=30)
    deadline = time.monotonic() + 60
    while left := members(leader.pid):
        assert time.monotonic() < deadline, f"{left} outlived their leader"
        time.sleep(0.1)


def members(session: int) -> list[int]:
    """The processes of a session that still exist."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found
