"""A file is read once for as long as it stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smt_ray.artifacts.versions import kept_per_version


@pytest.fixture
def reads() -> list[Path]:
    return []


def test_a_file_is_read_again_when_it_changed_and_not_before(
    tmp_path: Path, reads: list[Path]
) -> None:
    @kept_per_version(maxsize=2)
    def read(path: Path) -> str:
        reads.append(path)
        return path.read_text()

    file = tmp_path / "rows.json"
    file.write_text("one")
    assert [read(file), read(file)] == ["one", "one"]
    assert reads == [file]
    file.write_text("three")
    assert read(file) == "three"
    assert len(reads) == 2


def test_a_file_in_the_place_of_another_of_its_size_and_time_is_read(
    tmp_path: Path, reads: list[Path]
) -> None:
    read = kept_per_version(maxsize=2)(lambda path: (reads.append(path), path.read_text())[1])
    file, other = tmp_path / "rows.json", tmp_path / "other"
    file.write_text("one")
    other.write_text("two")
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read(file) == "one"
    other.rename(file)
    assert read(file) == "two"


def test_what_cannot_be_read_is_not_kept(tmp_path: Path) -> None:
    read = kept_per_version(maxsize=2)(Path.read_text)
    file = tmp_path / "rows.json"
    with pytest.raises(FileNotFoundError):
        read(file)
    file.write_text("one")
    assert read(file) == "one"
