"""Claims about the Dockerfiles: they pass a linter; the image's copies, installs and locks."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.files import read_lock

HADOLINT = Path(sys.executable).parent / "hadolint"
DOCKERFILES = ["docker/Dockerfile", "mlflow/Dockerfile", "mlflow/minio.Dockerfile"]
MAX_CONTEXT_BYTES = 5_000_000


def lint(dockerfile: Path) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "style", str(dockerfile)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def dockerfile(infra: Path) -> str:
    """The image's Dockerfile, each instruction in one line."""
    text = (infra / "docker" / "Dockerfile").read_text(encoding="utf-8")
    return re.sub(r"\s*\\\n\s*", " ", text)


@pytest.fixture(scope="module")
def ignored(root: Path) -> list[str]:
    """The lines of .dockerignore."""
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.fixture(scope="module")
def cuda(infra: Path) -> dict[str, str]:
    return read_lock(infra / "docker" / "cuda-constraints.txt")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_linter_accepts_every_dockerfile(infra: Path, name: str) -> None:
    done = lint(infra / name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ("FROM ubuntu:latest\n", "DL3007"),
        ("FROM ubuntu:24.04\nRUN pip install torch\n", "DL3013"),
        ("FROM ubuntu:24.04\nUSER root\n", "DL3002"),
        ("FROM ubuntu:24.04\nRUM true\n", "unexpected"),
    ],
)
def test_the_linter_finds_mistakes(tmp_path: Path, bad: str, rule: str) -> None:
    (tmp_path / "Dockerfile").write_text(bad, encoding="utf-8")
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode == 1
    assert rule in done.stdout + done.stderr


def test_the_context_holds_only_what_the_dockerfile_copies(
    dockerfile: str, ignored: list[str], root: Path
) -> None:
    words = [
        line.split()[1:-1]
        for line in dockerfile.splitlines()
        if line.startswith("COPY") and "--from" not in line
    ]
    copied = {source for sources in words for source in sources}
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert ignored[0] == "*"
    assert all(list(root.glob(source)) for source in copied)


def test_the_context_is_small_and_holds_no_data(ignored: list[str], root: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    context = [
        name
        for name in tracked
        if any(fnmatch.fnmatch(name, p) or name.startswith(f"{p}/") for p in allowed)
    ]
    assert "smt_ray/cli/__init__.py" in context
    assert sum((root / name).stat().st_size for name in context) < MAX_CONTEXT_BYTES


def test_the_image_has_python_3_11_and_installs_from_the_locks(dockerfile: str) -> None:
    assert re.search(r"uv venv --python 3\.11\.\d+ ", dockerfile)
    locks = "constraints.txt infra/docker/cuda-constraints.txt"
    assert f'UV_CONSTRAINT="{locks}" UV_BUILD_CONSTRAINT="{locks}"' in dockerfile
    installs = re.findall(r"uv pip install ([^&]+?)(?: &&|$)", dockerfile, re.MULTILINE)
    assert installs == [
        "--requirement pyproject.toml --requirement infra/docker/cloud-requirements.txt",
        "--no-deps .",
    ]


def test_the_compiler_has_the_cuda_version_of_torch(dockerfile: str, cuda: dict[str, str]) -> None:
    base = re.search(r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-devel-", dockerfile, re.MULTILINE)
    assert base
    assert cuda["cuda-toolkit"].startswith(f"{base[1]}.")


def test_no_package_except_boto3_is_locked_twice(
    infra: Path, locked: dict[str, str], cuda: dict[str, str]
) -> None:
    cloud = read_lock(infra / "docker" / "cloud-requirements.txt")
    assert not (set(cuda) | set(cloud) - {"boto3"}) & set(locked)
    assert cloud["boto3"] == locked["boto3"]  # installed in the image, and by the tests
    assert cloud["google-api-python-client"]


def test_heads_start_in_the_working_directory_of_the_image(
    dockerfile: str, pods: dict[str, dict[str, object]]
) -> None:
    (folder,) = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)
    heads = [pod for name, pod in pods.items() if name.endswith("head")]
    assert {pod["containers"][0]["workingDir"] for pod in heads} == {folder}  # type: ignore[index]


def test_the_image_installs_packages_with_the_locked_version_of_uv(
    dockerfile: str, locked: dict[str, str]
) -> None:
    assert f"FROM ghcr.io/astral-sh/uv:{locked['uv']} AS uv" in dockerfile
