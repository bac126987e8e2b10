"""A cached file is read again only if it has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cachetools import LRUCache, cached

from smt_ray.artifacts.versions import versioned


@pytest.fixture
def reads() -> list[Path]:
    return []


def test_a_file_is_read_again_when_it_changed_and_not_before(
    tmp_path: Path, reads: list[Path]
) -> None:
    @cached(LRUCache(2), key=versioned)
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


def test_a_file_that_replaces_one_of_equal_size_and_time_is_read(tmp_path: Path) -> None:
    read = cached(LRUCache(2), key=versioned)(Path.read_text)
    file, other = tmp_path / "rows.json", tmp_path / "other"
    file.write_text("one")
    other.write_text("two")
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read(file) == "one"
    other.rename(file)
    assert read(file) == "two"


def test_a_failed_read_is_not_kept(tmp_path: Path) -> None:
    read = cached(LRUCache(2), key=versioned)(Path.read_text)
    file = tmp_path / "rows.json"
    with pytest.raises(FileNotFoundError):
        read(file)
    file.write_text("one")
    assert read(file) == "one"
