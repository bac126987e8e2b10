"""The fork server: it imports the large libraries, and then forks a worker for each request.

What does not need Ray is imported at once. Ray reads the variables of a job when it is imported, so
the first worker's environment is the one of the other imports. The server has one thread and
computes nothing, because threads do not survive a fork.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LAUNCH_S = 5.0  # the most time that a launcher takes to send its request
_FILES = 3  # standard input, output and error

# Variables that differ between workers, and that no library reads when it is imported.
_READ_LATE = {
    "CUDA_VISIBLE_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "OLDPWD",
    "OMP_NUM_THREADS",
    "PL_DISABLE_FORK",  # set by Ray Tune
    "PWD",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC",  # set by Ray Train
    "TORCHINDUCTOR_CACHE_DIR",  # set by torch
    "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR",  # sets credentials, after the imports
}
_SET_BY_RAY = {"PYTHONBREAKPOINT", "SPT_NOENV"}  # in every worker, as variables of its own


@dataclass(frozen=True)
class Worker:
    """A worker that a launcher asks for.

    Attributes:
        launcher: The connection to the launcher, which waits.
        files: Its standard input, output and error.
        inherited: What :func:`smt_ray.cluster.fork_server.launch.inherited` sent.
        command: The worker's script and its arguments.
        context: What Ray's runtime environment sets.
    """

    launcher: socket.socket
    files: list[int]
    inherited: dict[str, Any]
    command: list[str]
    context: dict[str, Any]

    @classmethod
    def receive(cls, launcher: socket.socket) -> Worker:
        """Receives a request.

        Raises:
            OSError: The launcher does not send it.
            ValueError: It is not a request.
        """
        launcher.settimeout(_LAUNCH_S)
        begin, files, _, _ = socket.recv_fds(launcher, 1, _FILES)
        with launcher.makefile("rb") as rest:
            inherited = json.loads(begin + rest.read())
        # As Ray's script reads them.
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--serialized-runtime-env-context")
        parser.add_argument("--language")
        given, command = parser.parse_known_args(inherited["command"][1:])
        context = json.loads(given.serialized_runtime_env_context or "{}")
        return cls(launcher, files, inherited, command, context)

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables of the worker."""
        return {**self.inherited["environ"], **self.context.get("env_vars", {})}

    def is_plain(self) -> bool:
        """Whether it belongs to a job and runs under Python alone, not in a container or so."""
        return bool(
            "RAY_JOB_ID" in self.environ
            and self.context.get("py_executable", sys.executable) == sys.executable
            and not self.context.get("command_prefix")
            and not self.context.get("override_worker_entrypoint")
            and not any("$" in value for value in self.context.get("env_vars", {}).values())
        )

    def accept(self) -> bool:
        """Tells the launcher that it need not start the worker; False if it has not waited."""
        try:
            self.launcher.sendall(b"+")
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Closes what the server holds of it. If it was not accepted, the launcher starts it."""
        self.launcher.close()
        for file in self.files:
            os.close(file)

    def inherit(self) -> None:
        """Makes this process what the launcher's child would be."""
        os.setpgid(0, 0)  # Ray ends the group of a worker
        for number, file in enumerate(self.files):
            os.dup2(file, number)
        self.close()
        os.chdir(self.inherited["folder"])
        with suppress(PermissionError):  # both may only be raised
            os.setpriority(os.PRIO_PROCESS, 0, self.inherited["niceness"])
            Path("/proc/self/oom_score_adj").write_text(self.inherited["oom_score"])


def main(listener: socket.socket, lifeline: int, modules: list[str], path: list[str]) -> None:
    """Serves until the other end of the lifeline is closed; in a worker, does its work.

    Args:
        listener: The socket that launchers connect to.
        lifeline: The end of a pipe to read from.
        modules: The module to import at once, and the one to import for the first worker.
        path: The folders of modules.
    """
    fresh_path = list(sys.path)
    sys.path[:] = path
    worker = _serve(listener, lifeline, _Imports(*modules))
    if worker is not None:
        sys.path[:] = [str(Path(worker.command[0]).parent), *fresh_path]
        sys.argv[:] = worker.command
        runpy.run_path(worker.command[0], run_name="__main__")


def _serve(listener: socket.socket, lifeline: int, imports: _Imports) -> Worker | None:
    """The worker, in its process; in the server, None at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers that have ended
    for worker in _requests(listener, lifeline):
        fits = worker.is_plain() and imports.fit(worker.environ)
        if fits and worker.accept() and os.fork() == 0:
            listener.close()
            os.close(lifeline)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            worker.inherit()
            imports.use(worker.environ)
            return worker
        worker.close()
    return None


def _requests(listener: socket.socket, lifeline: int) -> Iterator[Worker]:
    while True:
        ready, _, _ = select.select([listener.fileno(), lifeline], [], [])
        if lifeline in ready:
            return
        launcher, _ = listener.accept()
        try:
            yield Worker.receive(launcher)
        except (OSError, ValueError):
            launcher.close()


class _Imports:
    """The imports that workers share.

    Args:
        early: The module that is imported at once.
        late: The module that is imported in the environment of the first worker.
    """

    def __init__(self, early: str, late: str) -> None:
        self._late = late
        self._environ = dict(os.environ)
        os.environ["OMP_NUM_THREADS"] = "1"
        _import(early)
        self._set = _new_variables(self._environ)
        self._is_complete = False
        self._can_fork = True

    def fit(self, environ: dict[str, str]) -> bool:
        """Whether a worker with these variables would have imported the same."""
        if not self._is_complete:
            self._complete(environ)
        return self._can_fork and _changed(environ, self._environ) <= _READ_LATE

    def _complete(self, environ: dict[str, str]) -> None:
        self._is_complete = True
        since = _changed(environ, self._environ) - _READ_LATE - _SET_BY_RAY
        self._can_fork = all(name.startswith(("RAY_", "__RAY_")) for name in since)
        if self._can_fork:
            self._environ = environ
            _replace_environment({**self._set, **environ, "OMP_NUM_THREADS": "1"})
            _import(self._late)
            self._set |= _new_variables({**self._set, **environ})
            # Forks of a process that has used a GPU cannot use it.
            uses_gpu = "libcuda.so" in Path("/proc/self/maps").read_text()
            self._can_fork = not uses_gpu and _forks_draw_different_ids()

    def use(self, environ: dict[str, str]) -> None:
        """Gives this process a worker's variables, number of threads and random numbers."""
        import numpy as np
        import torch

        _replace_environment({**self._set, **environ})
        # Ray sets the variable before a worker's first task, when torch has been imported.
        torch.set_num_threads(int(environ.get("OMP_NUM_THREADS", "1")))
        torch.seed()
        np.random.seed()


def _forks_draw_different_ids() -> bool:
    """Whether Ray's random numbers differ between forks.

    They are seeded when the first one is drawn. If an import has drawn one, every fork would give
    its tasks, objects and placement groups the same names.
    """
    if "ray" not in sys.modules:
        return True
    return len({_id_of_a_fork() for _ in range(2)}) == 2


def _id_of_a_fork() -> bytes:
    from ray._raylet import JobID, PlacementGroupID

    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, PlacementGroupID.of(JobID.from_int(1)).binary())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        return file.read()


def _import(module: str) -> None:
    with suppress(Exception):  # workers that need it raise the error themselves
        importlib.import_module(module)


def _new_variables(before: dict[str, str]) -> dict[str, str]:
    """The variables that libraries have set since."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in before and name not in _READ_LATE
    }


def _changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name, _ in one.items() ^ other.items()}


def _replace_environment(environ: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)


if __name__ == "__main__":
    listener_file, lifeline_file, names, folders = map(json.loads, sys.argv[1:])
    main(socket.socket(fileno=listener_file), lifeline_file, names, folders)
