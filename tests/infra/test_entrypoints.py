"""Commands that infra/ starts or tells to start: what they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from smt_ray.config.load import load_config
from smt_ray.config.search import load_search
from tests.infra.files import tracked_files

LOAD = {"pipelines/finetune.py": load_config, "pipelines/tune.py": load_search}
PIPELINE = re.compile(r"python (pipelines/\S+\.py) (configs/\S+\.yaml)((?: +\S+=\S+)*)")
REPOSITORY_PATH = re.compile(r"(?<![\w./-])(?:infra|configs|pipelines)/[\w./-]*\w")


@pytest.fixture(scope="module")
def texts(infra: Path, root: Path) -> dict[str, str]:
    """Every text below infra/, commands in one line each: file -> text."""
    files = tracked_files(infra)
    return {
        str(file.relative_to(root)): re.sub(r"\s*\\\n\s*", " ", file.read_text(encoding="utf-8"))
        for file in files
    }


def test_every_job_runs_a_pipeline_on_a_config(manifests: dict[str, dict[str, Any]]) -> None:
    entrypoints = {
        name: manifest["spec"]["entrypoint"]
        for name, manifest in manifests.items()
        if manifest["kind"] == "RayJob"
    }
    assert len(entrypoints) == 2
    for name, entrypoint in entrypoints.items():
        assert PIPELINE.fullmatch(entrypoint), name
        # KubeRay puts it into a shell's command line: words alone come out as they went in.
        assert shlex.join(shlex.split(entrypoint)) == entrypoint, name


def test_every_pipeline_command_is_one_that_starts(
    manifests: dict[str, dict[str, Any]], texts: dict[str, str], root: Path
) -> None:
    jobs = [m["spec"]["entrypoint"] for m in manifests.values() if m["kind"] == "RayJob"]
    commands = [found for text in [*texts.values(), *jobs] for found in PIPELINE.findall(text)]
    assert len(commands) >= 4
    for script, config, overrides in commands:
        assert (root / script).is_file()
        LOAD[script](root / config, shlex.split(overrides))
    assert {script for script, _, _ in commands} == set(LOAD)


def test_every_path_of_the_repository_that_is_named_exists(
    texts: dict[str, str], root: Path
) -> None:
    named = {path for text in texts.values() for path in REPOSITORY_PATH.findall(text)}
    assert len(named) > 10
    # What the reader copies an example to, git ignores.
    copies = {path.removesuffix(".example") for path in named if path.endswith(".example")}
    assert not {path for path in named - copies if not (root / path).exists()}
