"""Claims about ``smt-ray merge --gguf``: the converter is found first, and called once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from smt_ray.errors import UserError
from smt_ray.run.export import gguf
from smt_ray.run.export.gguf import CONVERTER, CONVERTER_VARIABLE, find_converter

# A stand-in for llama.cpp's converter, which writes down its arguments.
STAND_IN = """
import json, pathlib, sys
arguments = sys.argv[1:]
out = pathlib.Path(arguments[arguments.index("--outfile") + 1])
out.write_text(json.dumps([sys.executable, *arguments]))
"""
BROKEN = """
import pathlib, sys
pathlib.Path(sys.argv[3]).write_text("half of a file")
sys.exit("a first line\\nNotImplementedError: BPE pre-tokenizer was not recognized")
"""


@pytest.fixture
def converter(tmp_path: Path) -> Path:
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    (folder / CONVERTER).write_text(STAND_IN)
    return folder / CONVERTER


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(CONVERTER_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_converter_gets_the_folder_the_file_and_the_type(
    converter: Path, model: Path, kind: str
) -> None:
    file = find_converter(kind, converter).write(model, "mine")
    assert file == model / f"mine-{kind}.gguf"
    part = str(model / f"mine-{kind}.part")
    expected = [sys.executable, str(model), "--outfile", part, "--outtype", kind]
    assert json.loads(file.read_text()) == expected
    assert {path.name for path in model.iterdir()} == {"config.json", file.name}


@pytest.mark.parametrize("place", ["option", "environment", "path"])
def test_the_converter_is_found_in_three_places(
    converter: Path, model: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "environment":
        monkeypatch.setenv(CONVERTER_VARIABLE, str(converter))
    if place == "path":
        monkeypatch.setenv("PATH", str(converter.parent))
    given = converter if place == "option" else None
    assert find_converter("f16", given).converter == converter.resolve()


@pytest.mark.parametrize("given", [None, Path("nowhere") / CONVERTER])
def test_a_missing_converter_is_one_line_that_says_how_to_get_it(
    model: Path, given: Path | None
) -> None:
    with pytest.raises(UserError, match=r"needs llama\.cpp's convert_hf_to_gguf\.py") as caught:
        find_converter("f16", given)
    assert "git clone https://github.com/ggml-org/llama.cpp" in caught.value.fix
    assert gguf.CONVERTER_VARIABLE in caught.value.fix


def test_another_type_is_refused(converter: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"--gguf: must be one of f16, q8_0; got 'q4_k_m'"):
        find_converter("q4_k_m", converter)


def test_a_failure_leaves_the_merged_model_and_names_the_reason(
    converter: Path, model: Path
) -> None:
    converter.write_text(BROKEN)
    with pytest.raises(UserError, match="BPE pre-tokenizer was not recognized") as caught:
        find_converter("f16", converter).write(model, "mine")
    assert "is complete" in caught.value.fix
    assert [path.name for path in model.iterdir()] == ["config.json"]
