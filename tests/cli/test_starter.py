"""Claims about init: its file loads, names the model and the rows, and overwrites nothing."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smt_ray import cli
from smt_ray.cli.starter import make_starter
from smt_ray.config.load import load_config
from smt_ray.data.splits import read_split
from smt_ray.errors import UserError
from tests.cli.refusals import Refused, assert_names

Init = Callable[..., tuple[str, str]]


@pytest.fixture(name="rows")
def _rows(tmp_path: Path) -> str:
    """A file of 300 rows."""
    lines = [json.dumps({"instruction": f"Is {i} even?", "output": "no"}) for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return "rows.jsonl"


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """Runs init; returns what it printed to standard output and standard error."""

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["smt-ray", "init", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


@pytest.mark.parametrize("method", ["smt", "lora", "dora", "sift", "full"])
def test_the_file_loads_with_the_model_the_rows_and_the_method(
    init: Init, rows: str, method: str
) -> None:
    out, error = init("mine.yaml", "--model", "builtin:tiny", "--data", rows, "--method", method)
    assert "wrote mine.yaml for model builtin:tiny, and 300 rows" in out
    assert error == ""
    config = load_config("mine.yaml")
    assert (config.model.builtin, config.data.train, config.method) == ("tiny", [rows], method)
    split = read_split(config.data, config.seed)
    assert (len(split.training), len(split.validation)) == (270, 30)
    text = Path("mine.yaml").read_text()
    for section in config.idle_sections:
        assert f"\n{section}:" not in text


def test_the_file_explains_its_keys_and_marks_those_that_matter(rows: str) -> None:
    text = make_starter("mine.yaml", "builtin:tiny", [rows], "smt").text
    assert text.startswith("# smt-ray run mine.yaml\n")
    marked = re.findall(r"^ *(\w+):.*# \(!\)", text, re.MULTILINE)
    assert {"builtin", "train", "max_length", "budget", "learning_rate", "tasks"} <= set(marked)
    assert max(map(len, text.splitlines())) <= 110


def test_what_is_commented_out_can_be_switched_on(rows: str, tmp_path: Path) -> None:
    text = make_starter("mine.yaml", "builtin:tiny", [rows], "smt").text
    (tmp_path / "on.yaml").write_text(re.sub(r"^  # (\w+: )", r"  \1", text, flags=re.MULTILINE))
    config = load_config(tmp_path / "on.yaml")
    assert config.model.quantization == "nf4"
    assert config.data.ignore_columns == ["id"]


def test_the_commands_that_it_prints_and_writes_name_the_file_as_a_shell_reads_it(
    init: Init, rows: str, tmp_path: Path
) -> None:
    config = tmp_path / "it's my run.yaml"
    out, _ = init(str(config), "--model", "builtin:tiny", "--data", str(tmp_path / rows))
    for line in (out.splitlines()[1], config.read_text().splitlines()[0].removeprefix("# ")):
        assert shlex.split(line)[2] == str(config)


@pytest.mark.parametrize("number", [1, 9, 10, 40])
def test_few_rows_make_a_file_that_loads(tmp_path: Path, number: int) -> None:
    lines = [json.dumps({"text": f"line {i}"}) for i in range(number)]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    text = make_starter("few.yaml", "builtin:tiny", ["few.jsonl"], "smt").text
    (tmp_path / "few.yaml").write_text(text)
    config = load_config(tmp_path / "few.yaml")
    assert len(read_split(config.data, 0).validation) == number // 10
    assert bool(config.training.validate_every_steps) == (number >= 10)


def test_names_on_the_hub_are_not_looked_up_and_the_output_says_so(init: Init) -> None:
    out, _ = init("--model", "Qwen/Qwen2.5-1.5B", "--data", "owner/name", "--data", "hub:boolq")
    assert "Qwen/Qwen2.5-1.5B, which was not looked up, and rows that were not read" in out
    config = load_config("run.yaml")
    assert config.model.path == "Qwen/Qwen2.5-1.5B"
    first, second = config.data.train
    assert not isinstance(first, str)
    assert (first.hub, second) == ("owner/name", "hub:boolq")
    assert 0 < config.data.validation_rows < 1


def test_a_gguf_file_and_a_folder_are_named_as_configs_name_them(rows: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.gguf").touch()
    text = make_starter("a.yaml", "models/small.gguf", [rows], "smt").text
    assert '  path: "models" # (!)\n  gguf_file: "small.gguf" # (!)\n' in text
    with pytest.raises(UserError, match=r"--model: must be a folder with a config\.json.*small"):
        make_starter("a.yaml", "models", [rows], "smt")


def test_rows_that_need_settings_are_reported_and_the_file_still_loads(
    init: Init, tmp_path: Path
) -> None:
    (tmp_path / "odd.json").write_text('[{"text": "a", "id": 1}]')
    _, error = init("odd.yaml", "--model", "builtin:tiny", "--data", "odd.json")
    assert_names(error, "warning: the rows cannot be used as they are", "id", "ignore_columns")
    assert load_config("odd.yaml").data.train == ["odd.json"]


def test_nothing_is_overwritten(refused: Refused, rows: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    line = refused("init", "--model", "builtin:tiny", "--data", rows)
    assert_names(line, "CONFIG: must not exist yet", "got 'run.yaml'")
    assert (tmp_path / "run.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model", "./m", "--data", "ROWS"], ["--model: must be a folder", "got './m'"]),
        (["--model", "builtin:huge", "--data", "ROWS"], ["model.builtin", "'tiny'"]),
        (["--model", "builtin:tiny", "--data", "a.json"], ["--data: must be a file", "a.json"]),
        (
            ["--model", "builtin:tiny", "--data", "ROWS", "--method", "loha"],
            ["method", "got 'loha'"],
        ),
        (["no/folder.yaml", "--model", "m", "--data", "ROWS"], ["CONFIG: must be writable"]),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(
    refused: Refused, rows: str, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    line = refused("init", *[rows if word == "ROWS" else word for word in arguments])
    assert_names(line, *parts)
    assert [file.name for file in tmp_path.iterdir()] == [rows]
