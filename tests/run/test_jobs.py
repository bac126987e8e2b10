"""Claims about `ray job submit` on a separate head: all pipelines, small packages, exit codes."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import processes
from tests.ranks import free_port
from tests.runs import QUICK

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHIPPED = ("smt_ray", "pipelines", "configs", "pyproject.toml", "README.md")
LEFT = (".venv", "smt_ray_storage", "mlruns", "models", "tests", "docs")


@dataclass(frozen=True)
class Head:
    """A Ray head with its dashboard.

    Attributes:
        address: The address of its dashboard.
        folder: The working directory that jobs ship.
        storage: The storage of their runs.
        session: Ray's own folder.
        environment: The environment of the commands.
    """

    address: str
    folder: Path
    storage: Path
    session: Path
    environment: dict[str, str]

    def submit(self, pipeline: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
        """Submits a job as the README says, and waits for its end."""
        script = ["--", "python", f"pipelines/{pipeline}.py", *map(str, arguments)]
        return subprocess.run(
            ["ray", "job", "submit", "--address", self.address, "--working-dir", self.folder,
             *script],
            capture_output=True, text=True, timeout=300, env=self.environment, check=False,
        )  # fmt: skip

    def exit_code(self) -> int | None:
        """The exit code of the latest job's driver."""
        from ray.job_submission import JobSubmissionClient

        jobs = JobSubmissionClient(self.address).list_jobs()
        code: int | None = max(jobs, key=lambda job: job.start_time).driver_exit_code
        return code


def run_values(storage: Path) -> dict[str, Any]:
    values = copy.deepcopy(QUICK) | {"storage": str(storage)}
    values["training"] = {"max_steps": 6, "validate_every_steps": 3}
    values["evaluation"] = {"tasks": ["tiny_arithmetic"], "max_rows": 8, "base": False}
    return values


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    scratch = tmp_path_factory.mktemp("head")
    folder = scratch / "checkout"
    folder.mkdir()
    for name in (*SHIPPED, "tests", "docs"):
        copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copier(ROOT / name, folder / name)  # type: ignore[operator]
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in (".venv", "smt_ray_storage", "mlruns", "models"):
        (folder / name).mkdir()
        (folder / name / "large.bin").write_bytes(b"0" * 1000)
    # The agent, which starts jobs, needs a free port: another Ray may use the default one.
    port, agent_port = free_port(), free_port()
    # Ray puts sockets below its folder, and their names must be short.
    session = Path(os.environ.get("TMPDIR", "/tmp")) / f"smt_ray_head_{port}"
    environment = {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        "HOME": str(scratch),  # hides a token of this machine
        "RAY_AUTH_MODE": "disabled",  # another Ray in this process may need one
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_worker_niceness": "0",
    }
    environment.pop("PYTHONPATH", None)  # jobs must run the code that they ship
    leader = processes.start(
        ["ray", "start", "--head", "--block", "--port=0", "--num-cpus=2", "--num-gpus=0",
         "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}",
         f"--dashboard-agent-listen-port={agent_port}", f"--temp-dir={session}",
         "--disable-usage-stats"],
        scratch / "head.log", environment,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, leader, scratch / "head.log")
        yield Head(address, folder, scratch / "storage", session, environment)
    finally:
        processes.kill(leader)
        shutil.rmtree(session, ignore_errors=True)


def _wait_for(address: str, leader: Any, log: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 120
    while True:
        assert leader.poll() is None, log.read_text()
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")  # its agent starts last
            return
        except (ConnectionError, RuntimeError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


@pytest.fixture(scope="module")
def finetuned(head: Head) -> str:
    """The output of a run's job."""
    head.storage.mkdir()
    config = head.storage / "run.yaml"
    config.write_text(yaml.safe_dump(run_values(head.storage)))
    done = head.submit("finetune", config, "seed=1")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_submitted_run_writes_its_results_into_the_storage(head: Head, finetuned: str) -> None:
    metrics = json.loads((head.storage / "runs/quick/metrics.json").read_text())
    assert metrics["tasks"]["tiny_arithmetic"]["num_rows"] == 8
    manifest = json.loads((head.storage / "runs/quick/run.json").read_text())
    assert (manifest["status"], manifest["config"]["seed"]) == ("FINISHED", 1)


def test_progress_is_printed_as_plain_lines_without_a_terminal(finetuned: str) -> None:
    assert "selection: done in" in finetuned
    own = [line for line in finetuned.splitlines() if line.startswith(("training", "evaluat"))]
    assert own
    assert not any("\r" in line or "\x1b[" in line for line in own)


def test_a_job_ships_only_the_code(head: Head, finetuned: str) -> None:
    (package,) = head.session.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    assert set(SHIPPED) <= {path.name for path in package.iterdir()}
    assert not [name for name in LEFT if (package / name).exists()]
    # The job itself leaves compiled code in these folders.
    shipped = [path for path in package.rglob("*") if "__pycache__" not in path.parts]
    sizes = {str(p.relative_to(package)): p.stat().st_size for p in shipped if p.is_file()}
    assert sum(sizes.values()) < 5.5e6, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_a_refused_run_fails_its_job_with_the_exit_code_of_the_command(
    head: Head, finetuned: str
) -> None:
    done = head.submit("finetune", head.storage / "run.yaml", "selection.budget=2")
    assert done.returncode != 0
    assert "selection.budget" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout
    assert head.exit_code() == 2


def test_the_other_pipelines_can_be_submitted_too(head: Head, finetuned: str) -> None:
    """The comparison's only cell and the search's only trial reuse the training of the run."""
    done = head.submit(
        "evaluate", "--run", "quick", "--task", "tiny_commonsense", "--storage", head.storage,
        "--set", "evaluation.max_rows=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_values(head.storage) | {"seed": 1}
    del run["name"]
    table = {"title": "One", "rows": {"smt": {}}}
    comparison = {"run": run, "seeds": [1], "tables": {"one": table}}
    (head.storage / "compared.yaml").write_text(yaml.safe_dump(comparison))
    done = head.submit("compare", head.storage / "compared.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (head.storage / "comparisons/compared/report.html").exists()
    space = {"training.learning_rate": {"choice": [1e-4]}}
    (head.storage / "searched.yaml").write_text(yaml.safe_dump({"run": run, "space": space}))
    done = head.submit("tune", head.storage / "searched.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (head.storage / "searches/searched/best.yaml").exists()
    trained = [path.name for path in (head.storage / "stages").glob("training-*")]
    assert len(trained) == 1
