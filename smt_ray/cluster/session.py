"""The connection to Ray: to an existing cluster, or to a Ray that is started on this machine."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import psutil
import ray

from smt_ray.cluster.credentials import setup_hook
from smt_ray.cluster.fork_server.session import fork_server, starting_with
from smt_ray.cluster.private_session import on_loopback, session_folder
from smt_ray.errors import UserError

# The variables that workers on every node need; credentials.py sends the secret ones.
_FORWARDED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    # A trial of a search is the driver of its own training, so it needs the driver's variables.
    "RAY_ADDRESS",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
)

_TRIES = 3
_TOO_LATE = "timed out during startup"  # part of Ray's error if its processes start too slowly


@contextmanager
def ray_session(*, dashboard: bool = False) -> Iterator[bool]:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray here and stops it at the end.

    A connection that already exists is used and left as it is.

    Args:
        dashboard: Whether a Ray that is started here has a dashboard. Ray needs it to clean up
            after a trial that Ray Tune stopped; otherwise the next trial waits for its resources.

    Yields:
        Whether this call made the connection.

    Raises:
        UserError: There is no cluster at RAY_ADDRESS, or Ray does not start here in time.
    """
    if ray.is_initialized():
        yield False
        return
    _quieten()
    with early_imports() as program:
        with starting_with(program):
            _connect(dashboard)
        _end_on_sigterm()
        try:
            yield True
        finally:
            ray.shutdown()


@contextmanager
def early_imports(*, needed: bool = True) -> Iterator[str]:
    """Imports the libraries of workers on this machine in a process that they are forked from.

    Open it before the work that precedes :func:`ray_session`, which imports them otherwise.

    Args:
        needed: Whether there will be a session.

    Yields:
        The program for Ray to start its processes with.
    """
    if needed and is_alone() and not ray.is_initialized():
        with fork_server(worker_environment()) as program:
            yield program
    else:
        yield sys.executable


def _connect(dashboard: bool) -> None:
    for _ in range(_TRIES):
        before = set(psutil.Process().children(recursive=True))
        try:
            with on_loopback() if is_alone() else nullcontext():
                ray.init(**_options(dashboard))
            return
        except Exception as error:
            if not is_alone() and isinstance(error, ConnectionError):
                raise UserError(
                    "RAY_ADDRESS",
                    f"must be a cluster that answers ({' '.join(str(error).split())})",
                    got=os.environ["RAY_ADDRESS"],
                    fix="start one (ray start --head), or unset it to start Ray on this machine",
                ) from error
            if not is_alone() or _TOO_LATE not in str(error):
                raise
            # Ray forgets the processes that it started, and they would slow the next try down.
            _end(set(psutil.Process().children(recursive=True)) - before)
    raise UserError(
        "ray",
        f"its processes must start within 30 s, and they did not in {_TRIES} tries",
        fix="this machine is very busy or short of memory: end other programs, and start again",
    )


def logs_folder() -> str:
    """The folder of Ray's logs, on the node of this process."""
    return f"{ray.get_runtime_context().get_temp_dir()}/session_latest/logs"


def _end_on_sigterm() -> None:
    """Makes SIGTERM end a command as an interrupt does.

    Batch systems send it, and so does Ray when a job is stopped. Ray's own handler would abort the
    process with a stack trace.
    """

    def interrupt(_number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # Ray Train's, while ranks train
        if callable(handler):
            handler(signal.SIGINT, frame)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def _options(dashboard: bool) -> dict[str, Any]:
    """The keyword arguments of ``ray.init``."""
    environment, port = worker_environment(), None
    if is_alone() and dashboard:
        port = _free_port()
        # Ray would search for the server otherwise, and fail if this machine has another Ray.
        environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return {
        # Without an address, Ray would join any cluster that it finds on this machine.
        "address": "local" if is_alone() else None,
        "include_dashboard": dashboard if is_alone() else None,
        "dashboard_port": port,
        "_temp_dir": session_folder() if is_alone() else None,
        # Without it, Ray starts a task that its memory monitor has ended again and again.
        "_system_config": {"task_oom_retries": 1} if is_alone() else None,
        "log_to_driver": False,
        "logging_level": "warning",
        "runtime_env": {"env_vars": environment, **setup_hook()},
    }


def _end(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def worker_environment() -> dict[str, str]:
    """The environment variables that are set in every worker.

    Variables that the submitted job sets are left out, because Ray refuses to set them twice.
    """
    variables = {name: os.environ[name] for name in _FORWARDED if name in os.environ} | {
        "TOKENIZERS_PARALLELISM": "false",  # Ray already runs the workers in parallel
        "DS_LOG_LEVEL": "warning",
    }
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in variables.items() if name not in given}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _quieten() -> None:
    # Ray would announce at every start that local clusters have token authentication.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel("ERROR")
    # Ray Train polls its workers at this interval, and `report` waits for it. The default is 2 s.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if is_alone() else "1")
    # Ray would start workers ahead, in an environment that none of ours has.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    os.environ.setdefault("RAY_enable_worker_prestart", "0")
    if is_alone():
        os.environ.setdefault("RAY_enable_metrics_collection", "0")  # nobody collects them


def is_alone() -> bool:
    """Whether Ray runs on this machine only, where no node can be preempted."""
    return "RAY_ADDRESS" not in os.environ
