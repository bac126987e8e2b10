"""Claims about merging: a merged model is written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smt_ray.artifacts.runs import RunFolder
from smt_ray.artifacts.storage import Storage
from smt_ray.config.load import load_config
from smt_ray.errors import UserError
from smt_ray.run.export import merge
from smt_ray.run.export.merge import merge_run

FILES = {"model.safetensors": "tuned", "tokenizer.json": "words"}
CARD = "README.md"


class Written:
    """A model or a tokenizer of one file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def save_pretrained(self, folder: Path) -> None:
        (folder / self.name).write_text(FILES[self.name])


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage with the trained run ``mine``, whose model and tokenizer are one file each."""
    storage = Storage(str(tmp_path / "storage"))
    config = load_config(None, [f"storage={storage.root}", "name=mine"])
    run = RunFolder(storage, "mine")
    run.update(config=config.model_dump(mode="json"), semantic=config.semantic_tree(), stages={})
    method = SimpleNamespace(load=lambda *_: None, merge=lambda *_: None)
    monkeypatch.setattr(merge, "trained_adapter", lambda _: "adapter")
    monkeypatch.setattr(merge, "load_model", lambda _: Written("model.safetensors"))
    monkeypatch.setattr(merge, "read_tokenizer", lambda _: Written("tokenizer.json"))
    monkeypatch.setattr(merge, "find_method", lambda _: method)
    return storage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder to write into."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def written(folder: Path) -> dict[str, str]:
    """The files of a merged model; each has a card, too."""
    assert (folder / CARD).read_text().startswith("---\n")
    return {file.name: file.read_text() for file in folder.iterdir() if file.name != CARD}


def break_down(*_: Any) -> Any:
    raise RuntimeError("in the middle of it")


@pytest.mark.parametrize("out", ["new", "new/and/deep", "empty", "link"])
def test_the_folder_holds_the_model_and_nothing_is_left_beside_it(
    storage: Storage, place: Path, out: str
) -> None:
    if out == "empty":
        (place / out).mkdir()
    if out == "link":
        (place / "aim").mkdir()
        (place / out).symlink_to(place / "aim")
    assert merge_run(storage, "mine", place / out) == place / out
    assert written(place / out) == FILES
    assert {path.name for path in place.iterdir()} <= {out.partition("/")[0], "aim"}


def test_a_relative_folder_is_below_the_working_directory(
    storage: Storage, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert merge_run(storage, "mine", Path("new")) == Path("new")
    assert written(place / "new") == FILES


@pytest.mark.parametrize("parent", ["file", "file/below", "/proc"])
def test_an_unwritable_folder_is_refused_before_the_model_is_loaded(
    storage: Storage, place: Path, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    monkeypatch.setattr(merge, "load_model", break_down)
    (place / "file").write_text("in the way")
    out = place / parent / "new"
    with pytest.raises(UserError) as caught:
        merge_run(storage, "mine", out)
    assert (caught.value.field, caught.value.got) == ("--out", str(out))
    assert caught.value.rule.startswith("must be writable (")
    assert caught.value.fix


@pytest.mark.parametrize("there", ["file", "full folder", "mount point"])
def test_an_existing_file_or_folder_is_not_replaced(
    storage: Storage, place: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    out = place / "out"
    if there == "file":
        out.write_text("mine")
    else:
        out.mkdir()
    if there == "full folder":
        (out / "model.safetensors").write_text("mine")
    if there == "mount point":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    with pytest.raises(
        UserError, match=r"--out: must be a new or empty folder; .* does not exist yet"
    ):
        merge_run(storage, "mine", out)
    assert os.listdir(place) == ["out"]


@pytest.mark.parametrize("step", ["trained_adapter", "load_model", "read_tokenizer", "write_card"])
@pytest.mark.parametrize("out", ["new", "new/and/deep", "empty"])
def test_a_failed_merge_leaves_nothing_behind_and_can_be_repeated(
    storage: Storage, place: Path, step: str, out: str
) -> None:
    (place / "empty").mkdir()
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(merge, step, break_down)
        with pytest.raises(RuntimeError, match="in the middle"):
            merge_run(storage, "mine", place / out)
    assert os.listdir(place) == ["empty"]
    assert not os.listdir(place / "empty")
    merge_run(storage, "mine", place / out)
    assert written(place / out) == FILES
