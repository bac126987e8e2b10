"""Claims about the rights of files of tensors: they are those that the umask leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_for_the_owner

from smt_ray.file_rights import give_usual_rights, save_file
from smt_ray.smt.selection import select_blocks
from tests.smt.test_selection import BY_HAND

TENSORS = {"x": torch.arange(6.0).view(2, 3)}


@pytest.fixture(params=[0o022, 0o007], ids=["022", "007"])
def rights(request: pytest.FixtureRequest) -> Iterator[int]:
    """The rights of a new file."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def rights_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file_has_the_rights_that_the_umask_leaves(tmp_path: Path, rights: int) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors", {"format": "pt"})
    assert rights_of(tmp_path / "x.safetensors") == rights
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], TENSORS["x"])
    select_blocks(BY_HAND, num_blocks=2, block_size=2).save(tmp_path / "selection.safetensors")
    assert rights_of(tmp_path / "selection.safetensors") == rights


def test_a_file_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    place = tmp_path / "x.safetensors"
    place.touch()
    place.chmod(0o640)
    save_file(TENSORS, place)
    assert rights_of(place) == 0o640


def test_files_of_another_library_get_the_same_rights(tmp_path: Path, rights: int) -> None:
    save_for_the_owner(TENSORS, tmp_path / "x.safetensors")
    give_usual_rights(tmp_path)
    assert rights_of(tmp_path / "x.safetensors") == rights
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
