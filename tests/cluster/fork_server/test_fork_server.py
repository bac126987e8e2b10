"""Workers are forked from a process with imported libraries, and are as if they were started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from smt_ray.artifacts.scratch import scratch_folder
from smt_ray.cluster.fork_server import session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no server elsewhere")

LOADED = "import sys; loaded = 'torch' in sys.modules\n"
WORKER = (
    LOADED
    + """
import json, os, torch
print(json.dumps({
    "loaded": loaded, "parent": os.getppid(), "group": os.getpgid(0) == os.getpid(),
    "arguments": sys.argv, "folder": os.getcwd(), "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    "environ": dict(os.environ), "threads": torch.get_num_threads(), "path": sys.path[0],
    "name": __name__, "seed": torch.initial_seed(),
}))
print("an error", file=sys.stderr)
"""
)
AS_USUAL = LOADED + "print({'loaded': loaded, 'arguments': sys.argv[1:]})\n"


def given(tmp_path: Path, context: dict[str, Any]) -> list[str]:
    """The arguments with which Ray starts a worker: its set-up script comes first."""
    (tmp_path / "setup_worker.py").write_text(AS_USUAL)
    (tmp_path / "worker.py").write_text(WORKER)
    return [
        str(tmp_path / "setup_worker.py"),
        f"--serialized-runtime-env-context={json.dumps(context)}",
        "--language=PYTHON",
        str(tmp_path / "worker.py"),
        "--flag",
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, dict[str, str]]]:
    """The program to start workers with, and the environment of the server."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PYTEST_CURRENT_TEST")  # another one in every test
            patch.setattr(session, "_IMPORTED", ("torch", "numpy"))
            environ = {**os.environ, "SHARED": "1"}
            program = stack.enter_context(session.fork_server({"SHARED": "1"}))
        yield program, environ


Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def launch(server: tuple[str, dict[str, str]], tmp_path: Path) -> Launch:
    program, inherited = server

    def launch(
        context: dict[str, Any] | None = None, command: list[str] | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *(command or given(tmp_path, context or {}))],
            capture_output=True, text=True, timeout=100, cwd=tmp_path,
            env={**inherited, "RAY_JOB_ID": "01000000", **environ},
            preexec_fn=lambda: os.nice(3),
        )  # fmt: skip

    return launch


def test_a_worker_has_the_libraries_and_all_that_it_would_inherit(
    launch: Launch, tmp_path: Path
) -> None:
    found = launch({"env_vars": {"OMP_NUM_THREADS": "3"}})
    worker = json.loads(found.stdout)
    assert worker["loaded"]
    assert found.stderr == "an error\n"
    assert worker["arguments"] == [str(tmp_path / "worker.py"), "--flag"]
    assert worker["folder"] == worker["path"] == str(tmp_path)
    assert worker["name"] == "__main__"
    assert worker["niceness"] >= 3
    assert worker["group"], "Ray ends the group of a worker"
    assert worker["environ"]["OMP_NUM_THREADS"] == "3"
    assert worker["environ"]["RAY_JOB_ID"] == "01000000"
    assert worker["threads"] == 3


def test_workers_share_nothing_but_the_libraries(launch: Launch) -> None:
    one, other = (json.loads(launch().stdout) for _ in range(2))
    assert one["parent"] == other["parent"] != os.getpid()
    assert one["threads"] == other["threads"] == 1
    assert one["seed"] != other["seed"]


@pytest.mark.parametrize(
    "context",
    [
        {"env_vars": {"HF_HUB_OFFLINE": "7"}},
        {"env_vars": {"OMP_NUM_THREADS": "${SHARED}"}},
        {"py_executable": "other"},
        {"command_prefix": ["nice"]},
    ],
    ids=str,
)
def test_a_worker_that_would_import_otherwise_starts_as_usual(
    launch: Launch, context: dict[str, Any]
) -> None:
    launch()  # the first worker's environment is the server's
    assert launch(context).stdout.startswith("{'loaded': False, 'arguments': ['--serial")


def test_a_worker_of_no_job_starts_as_usual(launch: Launch) -> None:
    launch()
    assert "'loaded': False" in launch(RAY_JOB_ID="02000000").stdout


def test_other_programs_start_as_usual(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AS_USUAL)
    found = launch(command=[str(tmp_path / "agent.py"), "--port=1"])
    assert found.stdout == "{'loaded': False, 'arguments': ['--port=1']}\n"


def test_a_context_within_another_has_the_same_server(server: tuple[str, dict[str, str]]) -> None:
    with session.fork_server({}) as inner:
        assert inner == server[0]
    assert Path(inner).exists()


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is started in the test is its own, not that of the module."""
    monkeypatch.setattr(session, "_launchers", [])


def start(program: str, tmp_path: Path) -> str:
    return subprocess.run(
        [program, *given(tmp_path, {})], capture_output=True, text=True, timeout=100,
        env={**os.environ, "RAY_JOB_ID": "01000000"},
    ).stdout  # fmt: skip


def test_a_server_that_has_used_a_gpu_forks_nothing(
    own_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"0" * 4096)
    (tmp_path / "uses_a_gpu.py").write_text(
        "import mmap\n"
        f"file = open({str(tmp_path / 'libcuda.so.1')!r}, 'r+b')\n"
        "kept = mmap.mmap(file.fileno(), 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(session, "_IMPORTED", ("json", "uses_a_gpu"))
    with session.fork_server({}) as program:
        assert "'loaded': False" in start(program, tmp_path)


@pytest.mark.parametrize(
    ("module", "forks"),
    [("import ray\n", True), ("import ray\nray.remote(type('A', (), {}))\n", False)],
    ids=["unused", "used"],
)
def test_workers_are_not_forked_from_a_process_that_has_used_the_random_numbers_of_ray(
    own_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, forks: bool
) -> None:
    (tmp_path / "uses_ray.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(session, "_IMPORTED", ("json", "uses_ray"))
    with session.fork_server({}) as program:
        assert ("'loaded': False" in start(program, tmp_path)) != forks


def test_workers_start_as_usual_when_the_server_is_gone(
    own_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "_IMPORTED", ("json", "json"))
    before = set(psutil.Process().children())
    with session.fork_server({}) as program:
        (server,) = set(psutil.Process().children()) - before
        server.send_signal(signal.SIGKILL)
        server.wait()
        assert "'loaded': False" in start(program, tmp_path)
    assert not Path(program).exists()


def test_the_variable_turns_it_off(own_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(session.VARIABLE, "0")
    with session.fork_server({}) as program:
        assert program == sys.executable


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import os, psutil\n"
        "from smt_ray.cluster.fork_server import session\n"
        "session._IMPORTED = ('json', 'json')\n"
        "with session.fork_server({}) as program:\n"
        "    print(psutil.Process().children()[0].pid, program, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    pid, program = done.stdout.split()
    while psutil.pid_exists(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with scratch_folder():
        assert not Path(program).parent.exists(), "the next process that makes a folder removes it"


@pytest.mark.slow
@pytest.mark.parametrize("credentials", [{}, {"HF_TOKEN": "canary", "AWS_SECRET_ACCESS_KEY": "b"}])
def test_the_workers_of_a_session_are_forked(tmp_path: Path, credentials: dict[str, str]) -> None:
    """A change of Ray that made them start as usual, slowly, is noticed here."""
    script = """
import ray
from smt_ray.cluster.session import ray_session

if __name__ == "__main__":
    with ray_session():

        @ray.remote(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
        def loaded():
            import sys

            names = ("torch", "transformers.modeling_utils", "deepspeed", "smt_ray.stages.rank")
            return [name for name in names if name not in sys.modules]

        @ray.remote(num_cpus=0)
        class Names:
            def new(self):
                from ray._raylet import JobID, PlacementGroupID

                return ray.put(1).hex(), PlacementGroupID.of(JobID.from_int(1)).hex()

        print(ray.get(loaded.remote()))
        found = ray.get([Names.remote().new.remote() for _ in range(4)])
        print(len({name for names in found for name in names}))
"""
    (tmp_path / "session.py").write_text(script)
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, tmp_path / "session.py"], capture_output=True, text=True,
        env=environ | credentials,
    )  # fmt: skip
    assert done.stdout == "[]\n8\n", done.stderr
