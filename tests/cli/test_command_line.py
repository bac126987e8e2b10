"""Claims about the command line itself: usage, interrupts, and the errors of users."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest

import smt_ray
from smt_ray import cli
from smt_ray.errors import UserError


@pytest.mark.parametrize(
    "arguments",
    [["runn"], ["run", "--untill", "training"], ["merge", "--run", "mine"], ["log"], ["evaluate"]],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2_and_shows_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert "Usage:" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "Usage: smt-ray" in capsys.readouterr().out


def test_version_is_the_installed_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["smt-ray", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert capsys.readouterr().out == f"smt-ray {smt_ray.__version__}\n"
    assert metadata.version("smt-ray") == smt_ray.__version__


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("smt-ray co", {"compare", "config"}),
        ("smt-ray merge --o", {"--out"}),
        ("smt-ray run --until wa", {"warmup"}),
        ("smt-ray merge --storage kept --run qu", {"quick", "quicker"}),
        ("smt-ray diff --storage kept quick sl", {"slow"}),
        ("smt-ray merge --storage s3://bucket --run qu", set()),
    ],
)
def test_a_shell_completes_commands_options_stages_and_runs(
    tmp_path: Path, words: str, expected: set[str]
) -> None:
    for name in ("quick", "quicker", "slow"):
        (tmp_path / "kept" / "runs" / name).mkdir(parents=True)
    variables = {
        "_SMT_RAY_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "smt_ray"], env={**os.environ, **variables}, cwd=tmp_path,
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert set(answer.stdout.split()) == expected


STARTED = """
from smt_ray.cli import main
main(*{arguments})
"""


def open_once_it_is_read(pipe: Path, reader: subprocess.Popen[str]) -> int:
    """Opens a pipe for writing when a process has opened it for reading."""
    while reader.poll() is None:
        with suppress(OSError):  # nobody reads it yet
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    raise AssertionError(f"the process has ended: {reader.communicate()}")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("run", "interrupted: the same command resumes from here\n"),
        ("compare", "interrupted: the same command resumes from here\n"),
        ("tune", "interrupted: the same command resumes from here\n"),
        ("config", "interrupted\n"),
        ("plan", "interrupted\n"),
    ],
)
def test_an_interrupted_command_says_whether_it_resumes_and_ends_with_130(
    tmp_path: Path, command: str, line: str
) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    with subprocess.Popen(
        [sys.executable, "-c", STARTED.format(arguments=[command, str(pipe)])],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        writing = open_once_it_is_read(pipe, process)
        process.send_signal(signal.SIGINT)  # it waits for its config
        out, error = process.communicate()
        os.close(writing)
    assert process.returncode == 130
    assert (out, error) == ("", line)


def test_a_defect_of_ours_is_one_line_and_a_file_with_its_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken() -> None:
        raise KeyError("ours \udcff\nand more")

    with pytest.raises(SystemExit) as end:
        cli.exit_with(broken)
    assert end.value.code == 1
    (file,) = tmp_path.iterdir()
    line = capsys.readouterr().err
    assert line.startswith("error: unexpected KeyError: 'ours ")
    assert line.count("\n") == 1
    assert str(file) in line
    assert "in broken" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0, "it may contain rows"


class WrappedError(Exception):
    """An error like Ray's, which has the error of a task as its cause."""

    def __init__(self, cause: BaseException | None = None) -> None:
        super().__init__("a task failed\nwith many\nlines")
        self.cause = cause


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_users_error_is_found_inside_rays_errors(
    capsys: pytest.CaptureFixture[str], depth: int
) -> None:
    error: BaseException = UserError("seed", "must be\nsmall", got=9)
    for _ in range(depth):
        error = WrappedError(error)

    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        cli.exit_with(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: seed: must be small; got 9\n"


def test_a_users_error_is_found_as_the_cause_of_another_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise RuntimeError("wrapped") from UserError("seed", "must be small")

    with pytest.raises(SystemExit):
        cli.exit_with(fail)
    assert capsys.readouterr().err == "error: seed: must be small\n"
