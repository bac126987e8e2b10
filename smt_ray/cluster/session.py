"""The connection to Ray: an existing cluster, or one on this machine, kept quiet."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil
import ray

from smt_ray.cluster.credentials import setup_hook
from smt_ray.errors import UserError

# What workers need to know, wherever they run; secrets travel otherwise (credentials.py).
_FORWARDED = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    # A search's trial is a driver of its own training: it must know what its own driver knows.
    "RAY_ADDRESS",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
)


_TRIES = 3
_TOO_LATE = "timed out during startup"  # what Ray says of a node whose processes were too slow


@contextmanager
def ray_session(*, dashboard: bool = False) -> Iterator[bool]:
    """Connects to the cluster of RAY_ADDRESS, or starts Ray here and stops it at the end.

    A Ray that is connected already is used and left as it is.

    Args:
        dashboard: Whether a Ray that is started here has its dashboard. What cleans up after a
            trial that Ray Tune stopped asks it: without one, the next waits for its resources.

    Yields:
        Whether it was connected here.

    Raises:
        UserError: There is no cluster at RAY_ADDRESS, or Ray does not start here in time.
    """
    if ray.is_initialized():
        yield False
        return
    _quieten()
    _connect(dashboard)
    _end_on_sigterm()
    try:
        yield True
    finally:
        ray.shutdown()


def _connect(dashboard: bool) -> None:
    for _ in range(_TRIES):
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(**_options(dashboard))
            return
        except Exception as error:
            if not is_alone() and isinstance(error, ConnectionError):
                raise UserError(
                    "RAY_ADDRESS",
                    f"must be a cluster that answers ({' '.join(str(error).split())})",
                    got=os.environ["RAY_ADDRESS"],
                    fix="start one (ray start --head), or unset it: Ray is then started here",
                ) from error
            if not is_alone() or _TOO_LATE not in str(error):
                raise
            # Ray has forgotten what it started, which would make the next try slower still.
            _end(set(psutil.Process().children(recursive=True)) - before)
    raise UserError(
        "ray",
        f"its processes must start within Ray's 30 s, and did not in {_TRIES} tries",
        fix="this machine is very busy or short of memory: end what else runs, and start again",
    )


def _end_on_sigterm() -> None:
    """Has SIGTERM, of batch systems and stopped jobs, end a command as an interrupt does.

    Ray, once it is connected, has it abort the process with a stack trace.
    """

    def interrupt(_number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # while ranks train, Ray Train's
        if callable(handler):
            handler(signal.SIGINT, frame)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def _options(dashboard: bool) -> dict[str, Any]:
    """What ``ray.init`` is told."""
    environment, port = worker_environment(), None
    if is_alone() and dashboard:
        port = _free_port()
        # Found by a search otherwise, which fails where another Ray runs on this machine.
        environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    return {
        # Without an address Ray would join whatever cluster it finds on this machine.
        "address": "local" if is_alone() else None,
        "include_dashboard": dashboard if is_alone() else None,
        "dashboard_port": port,
        "log_to_driver": False,
        "logging_level": "warning",
        "runtime_env": {"env_vars": environment, **setup_hook()},
    }


def _end(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def worker_environment() -> dict[str, str]:
    """Environment variables that reach every worker; those that a submitted job sets stand."""
    variables = {name: os.environ[name] for name in _FORWARDED if name in os.environ} | {
        "TOKENIZERS_PARALLELISM": "false",  # workers are forked and threaded by Ray already
        "DS_LOG_LEVEL": "warning",
    }
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    given = (job.get("runtime_env") or {}).get("env_vars") or {}
    # Ray refuses a variable that both name, even with the same value.
    return {name: value for name, value in variables.items() if name not in given}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _quieten() -> None:
    # It announces at every start that local clusters have token authentication.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel("ERROR")
    # Train asks after its workers this often, and `report` waits for the asking: 2 s by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0" if is_alone() else "1")


def is_alone() -> bool:
    """Whether Ray will run on this machine only, where no node can be taken away."""
    return "RAY_ADDRESS" not in os.environ
