"""The program that Ray starts in place of Python: it asks the fork server for a worker.

It uses nothing but the standard library, so that it starts quickly. If the server is not there, or
does not answer in time, it becomes Python itself, and the worker imports everything as usual.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE_S = 30.0  # the server answers when it has imported everything
_ACCEPTED = b"+"


def main(folder: str, command: list[str]) -> None:
    """Starts a worker; anything else that Ray starts becomes Python.

    Args:
        folder: The folder of the server's socket.
        command: The script that Ray starts, and its arguments.
    """
    if not (_is_worker(command) and _hand_over(folder, command)):
        os.execv(sys.executable, [sys.executable, *command])


def _is_worker(command: list[str]) -> bool:
    """Whether Ray starts a worker, by its script that sets up the environment of workers."""
    return os.path.basename(command[0]) == "setup_worker.py" and "--language=PYTHON" in command


def _hand_over(folder: str, command: list[str]) -> bool:
    """Whether the server starts the worker. It gets what a process inherits from its parent."""
    request = json.dumps(inherited(command)).encode()
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(_PATIENCE_S)
            at_socket(folder, server.connect)
            socket.send_fds(server, [request[:1]], [0, 1, 2])
            server.sendall(request[1:])
            server.shutdown(socket.SHUT_WR)
            return server.recv(1) == _ACCEPTED
    except OSError:
        return False


def at_socket(folder: str, call: Callable[[str], object]) -> None:
    """Binds or connects to the socket in a folder, whose path may be longer than an address."""
    place = os.open(folder, os.O_RDONLY)
    try:
        call(f"/proc/self/fd/{place}/socket")
    finally:
        os.close(place)


def inherited(command: list[str]) -> dict[str, Any]:
    """The command, and what the process would inherit from this one, besides its open files."""
    return {
        "command": command,
        "environ": dict(os.environ),
        "folder": os.getcwd(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "oom_score": Path("/proc/self/oom_score_adj").read_text(),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
