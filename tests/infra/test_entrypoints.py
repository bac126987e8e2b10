"""Claims about the commands in infra/: their pipelines, configs and options exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from smt_ray.cli.app import app
from smt_ray.cli.arguments import split_arguments
from smt_ray.config.comparison import load_comparison
from smt_ray.config.load import load_config
from smt_ray.config.search import load_search
from smt_ray.errors import UserError
from tests.infra.files import tracked_files

LOAD: dict[str, Callable[..., Any]] = {
    "run": load_config, "plan": load_config, "tune": load_search, "compare": load_comparison
}  # fmt: skip
UsageError: Any = typer.BadParameter.__base__  # from the click that Typer uses
ARGUMENTS = r"((?: +[^\s`#|;&<>]+)*)"
COMMAND = re.compile(rf"(?<![\w./-])smt-ray ([a-z][\w-]*){ARGUMENTS}")
SCRIPT = re.compile(rf"python (pipelines/\S+\.py){ARGUMENTS}")
PIPELINE = re.compile(r"python (pipelines/\S+\.py) (configs/\S+\.yaml)((?: +\S+=\S+)*)")
REPOSITORY_PATH = re.compile(r"(?<![\w./-])(?:infra|configs|pipelines)/[\w./-]*\w")


@pytest.fixture(scope="module")
def texts(infra: Path, root: Path) -> dict[str, str]:
    """File below infra/ -> its text, with every command on one line."""
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
        # KubeRay puts it into a shell's command line, where only plain words stay unchanged.
        assert shlex.join(shlex.split(entrypoint)) == entrypoint, name


def commands(text: str, root: Path) -> list[tuple[str, list[str]]]:
    """The commands of smt_ray in a text: (name, arguments) pairs."""
    found = [(name, shlex.split(arguments)) for name, arguments in COMMAND.findall(text)]
    for script, arguments in SCRIPT.findall(text):
        named = re.search(r'main\("(\w+)"\)', (root / script).read_text(encoding="utf-8"))
        assert named, script
        found.append((named[1], shlex.split(arguments)))
    return found


def refusal(name: str, arguments: list[str], root: Path) -> str:
    """The error of a command, from its options or its config; empty if it would start.

    CONFIG and NAME are placeholders for the reader's own.
    """
    command = typer.main.get_group(app).commands.get(name)
    if command is None:
        return f"no command {name}"
    try:
        command.make_context(name, list(arguments)).close()
        if name in LOAD and "CONFIG" not in arguments:
            config, overrides = split_arguments(arguments)
            LOAD[name](config and root / config, overrides)
    except UsageError as error:
        return error.format_message()
    except UserError as error:
        return str(error)
    return ""


def test_every_command_of_smt_ray_would_start(
    manifests: dict[str, dict[str, Any]], texts: dict[str, str], root: Path
) -> None:
    jobs = {n: m["spec"]["entrypoint"] for n, m in manifests.items() if m["kind"] == "RayJob"}
    found = [
        (place, *command)
        for place, text in [*texts.items(), *jobs.items()]
        for command in commands(text, root)
    ]
    assert {name for _, name, _ in found} == {"run", "tune", "report"}
    assert len(found) >= 9
    assert {place for place, *_ in found} >= {"infra/README.md", "infra/kuberay/shell.yaml", *jobs}
    refused = [(place, name, refusal(name, arguments, root)) for place, name, arguments in found]
    assert [why for why in refused if why[-1]] == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("smt-ray report NAME storage=/shared", "unexpected extra argument"),
        ("smt-ray report NAME --store /shared", "No such option"),
        ("smt-ray submit CONFIG", "no command submit"),
        ("smt-ray run configs/there_is_none.yaml", "must be a readable YAML file"),
        ("python pipelines/finetune.py configs/smollm2_135m_math.yaml sead=1", "unknown key"),
        ("python pipelines/evaluate.py --run NAME", "Missing option"),
    ],
)
def test_a_wrong_command_is_found(line: str, why: str, root: Path) -> None:
    (command,) = commands(line, root)
    assert why in refusal(*command, root)


def test_no_block_of_the_readme_starts_a_job_and_ends_its_machines(texts: dict[str, str]) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", texts["infra/README.md"], re.MULTILINE | re.DOTALL)
    starts, ends = r"ray job submit|kubectl logs", r"ray down|kubectl delete"
    assert sum(bool(re.search(starts, block)) for block in blocks) == 3
    assert sum(bool(re.search(ends, block)) for block in blocks) == 2
    assert not [b for b in blocks if re.search(starts, b) and re.search(ends, b)]


def test_every_path_of_the_repository_in_the_texts_exists(
    texts: dict[str, str], root: Path
) -> None:
    named = {path for text in texts.values() for path in REPOSITORY_PATH.findall(text)}
    assert len(named) > 10
    # The reader makes these copies of the examples, and git ignores them.
    copies = {path.removesuffix(".example") for path in named if path.endswith(".example")}
    assert not {path for path in named - copies if not (root / path).exists()}
