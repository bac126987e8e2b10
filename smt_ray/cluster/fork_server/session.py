"""Starts the fork server with a session of Ray on this machine, and ends it with the session."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.cluster.fork_server import launch, serve

VARIABLE = "SMT_RAY_FORK_SERVER"
"""The environment variable that is 0 to start every worker alone, such as to find a fault."""

# Without Ray and with it; by name, since both are above this module.
_IMPORTED = ("smt_ray.training.worker_imports", "smt_ray.run.worker_imports")
_launchers: list[str] = []  # of the server of this process, if there is one


@contextmanager
def fork_server(environment: Mapping[str, str]) -> Iterator[str]:
    """Starts a fork server, which lives while the context is open.

    If it is started before Ray, it imports the libraries in the meantime. Within the context of
    another call, it is the same server.

    Args:
        environment: The variables that every worker has in addition to those of this process.

    Yields:
        The program for Ray to start its processes with: the server's launcher, or Python where
        there is no server.
    """
    if _launchers or not _is_possible():
        yield _launchers[-1] if _launchers else sys.executable
        return
    with scratch_folder() as folder:
        read, lifeline = os.pipe()
        with socket.socket(socket.AF_UNIX) as listener:
            launch.at_socket(str(folder), listener.bind)
            listener.listen(128)
            server = _start(listener.fileno(), read, environment)
        os.close(read)
        _launchers.append(_write_launcher(folder))
        try:
            yield _launchers[-1]
        finally:
            _launchers.clear()
            os.close(lifeline)
            server.kill()  # it may still import, and has nothing to finish
            server.wait()


def _start(listener: int, lifeline: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    arguments = map(json.dumps, (listener, lifeline, _IMPORTED, sys.path))
    return subprocess.Popen(
        # -P: the folder of the script is no place for modules.
        [sys.executable, "-P", serve.__file__, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(listener, lifeline),
        process_group=0,  # an interrupt from the keyboard is not for workers
    )


def _is_possible() -> bool:
    """Whether there may be a server. On other systems, libraries do not allow forks."""
    return sys.platform == "linux" and os.environ.get(VARIABLE) != "0"


def _write_launcher(folder: Path) -> str:
    """Writes the program that Ray starts; returns its path."""
    # -I and -S: it starts quickly, and whatever the user's variables and packages are.
    command = shlex.join([sys.executable, "-I", "-S", launch.__file__, str(folder)])
    place = folder / "python"
    place.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    place.chmod(0o700)
    return str(place)


@contextmanager
def starting_with(program: str) -> Iterator[None]:
    """While it is open, Ray starts its processes with this program instead of Python.

    Ray has no option for it: ``ray.init`` takes the program that runs this process.
    """
    python = sys.executable
    sys.executable = program
    try:
        yield
    finally:
        sys.executable = python
