"""Claims about the pipelines: each has the arguments and exit codes of a command of smt-ray."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray import cli

PIPELINES = Path(__file__).parents[1] / "pipelines"
COMMANDS = {"finetune": "run", "evaluate": "evaluate", "compare": "compare", "tune": "tune"}
End = tuple[int, str, str]


def start(script: str | None) -> None:
    if script is None:
        cli.main()
    else:
        runpy.run_path(str(PIPELINES / f"{script}.py"), run_name="__main__")


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., End]:
    """Runs a pipeline's script, or a command; returns exit code, output and errors."""

    def run(script: str | None, *arguments: str) -> End:
        monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
        with pytest.raises(SystemExit) as stop:
            start(script)
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_every_pipeline_is_a_command() -> None:
    assert {file.stem for file in PIPELINES.glob("*.py")} == set(COMMANDS)


@pytest.mark.parametrize("pipeline", COMMANDS)
def test_a_pipeline_prints_the_help_of_its_command(end: Callable[..., End], pipeline: str) -> None:
    code, text, _ = end(pipeline, "--help")
    assert code == 0
    assert text == end(None, COMMANDS[pipeline], "--help")[1]
    assert f"smt-ray {COMMANDS[pipeline]} " in text


@pytest.mark.parametrize(
    ("pipeline", "arguments", "message"),
    [
        ("finetune", ["seed=1", "--until", "lunch"], "--until: must be one of warmup, "),
        ("finetune", ["sead=1"], "sead: unknown key"),
        ("evaluate", ["--task", "boolq"], "evaluate: needs exactly one of --run and --model"),
        ("compare", ["there.yaml"], "CONFIG: must be a readable YAML file"),
        ("tune", ["there.yaml"], "CONFIG: must be a readable YAML file"),
    ],
)
def test_a_pipeline_refuses_the_same_input_as_its_command(
    end: Callable[..., End], pipeline: str, arguments: list[str], message: str
) -> None:
    code, _, errors = end(pipeline, *arguments)
    assert code == 2
    assert errors.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in errors
    assert (code, errors) == end(None, COMMANDS[pipeline], *arguments)[::2]


@pytest.mark.parametrize("pipeline", COMMANDS)
def test_a_wrong_option_of_a_pipeline_ends_with_2_and_shows_the_usage(
    end: Callable[..., End], pipeline: str
) -> None:
    code, _, errors = end(pipeline, "--untill", "training")
    assert code == 2
    assert "Usage:" in errors
