"""Claims about the commands runs, diff and clean: what they print, ask and refuse."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray import cli
from smt_ray.artifacts.storage import Storage
from smt_ray.artifacts.use import in_use
from smt_ray.config.run import RunConfig
from tests.cli.refusals import Refused, assert_names
from tests.finished_runs import finish_run

Command = Callable[..., tuple[int, str]]
ORPHAN = "stages/training-00000000000a/adapter/weights"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command with an answer on standard input; returns its exit code and its output."""

    def run(*arguments: str, answer: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["smt-ray", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().out

    return run


@pytest.fixture
def storage(make_config: Callable[..., RunConfig]) -> Storage:
    """A storage with two runs and one stage that no run names."""
    finish_run(make_config("name=one"))
    finish_run(make_config("name=two", "selection.budget=0.1"))
    storage = Storage(make_config().storage)
    storage.write_bytes(ORPHAN, b"0" * 2048)
    return storage


def test_runs_prints_a_table_or_json(command: Command, storage: Storage) -> None:
    code, out = command("runs", "--storage", storage.root)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    row = next(line for line in lines if line[:1] == ["one"])
    assert row[2] == "50.0"
    assert {"0.5000", "finished", "smt", "train.json"} <= set(row)
    code, out = command("runs", "--storage", storage.root, "--json")
    assert {run["name"]: run["accuracy"] for run in json.loads(out)["runs"]} == {
        "one": 0.5, "two": 0.5,
    }  # fmt: skip


def test_runs_of_an_empty_place_are_none(command: Command, tmp_path: Path) -> None:
    assert command("runs", "--storage", "new") == (0, f"no runs in {tmp_path}/new\n")
    assert not (tmp_path / "new").exists()


def test_diff_prints_what_differs(command: Command, storage: Storage) -> None:
    code, out = command("diff", "one", "two", "--storage", storage.root)
    assert code == 0
    assert ["selection.budget", "0.05", "0.1"] in [line.split() for line in out.splitlines()]
    assert "eval/boolq" not in out  # both have it alike
    _, out = command("diff", "one", "two", "--storage", storage.root, "--json")
    assert json.loads(out)["settings"] == {"selection.budget": [0.05, 0.1]}
    assert command("diff", "one", "one", "--storage", storage.root)[1] == (
        "one and one do not differ\n"
    )


@pytest.mark.parametrize(
    ("options", "answer", "code", "is_deleted"),
    [
        ([], "n\n", 1, False),
        ([], "", 1, False),
        ([], "y\n", 0, True),
        (["--yes"], "", 0, True),
    ],
)
def test_clean_shows_bytes_and_deletes_only_after_a_yes(
    command: Command, storage: Storage, options: list[str], answer: str, code: int, is_deleted: bool
) -> None:
    found, out = command("clean", "--storage", storage.root, *options, answer=answer)
    assert found == code
    assert "stages that no run names" in out
    assert "2.0 KiB" in out
    assert ("freed 2.0 KiB" in out) == is_deleted
    assert storage.exists(ORPHAN) == (not is_deleted)
    assert storage.exists("runs/one/run.json")


def test_clean_of_a_clean_storage_asks_nothing(command: Command, storage: Storage) -> None:
    command("clean", "--storage", storage.root, "--yes")
    assert command("clean", "--storage", storage.root) == (
        0, f"nothing to delete in {storage.root}\n",
    )  # fmt: skip


def test_clean_of_a_used_or_missing_storage_is_refused(refused: Refused, storage: Storage) -> None:
    with in_use(storage, "run one"):
        line = refused("clean", "--storage", storage.root, "--yes")
    assert_names(line, "--storage: is in use by run one (process", "when they have ended")
    assert_names(refused("clean", "--storage", "nowhere"), "--storage: must exist")
