"""What was read of a local file, kept in memory for as long as the file stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

Content = TypeVar("Content")

Version = tuple[int, int, int]
"""The inode, modification time and size of a file."""


def file_version(path: Path) -> Version | None:
    """The version of a local file; None if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def kept_per_version(
    maxsize: int,
) -> Callable[[Callable[[Path], Content]], Callable[[Path], Content]]:
    """Makes a function read a file once, and again when its inode, time or size is another.

    The runs of a comparison read the same rows and hash the same gigabytes of weights.

    Args:
        maxsize: So many files' contents are kept, the ones used last.
    """

    def decorate(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
        @lru_cache(maxsize)
        def kept(path: Path, _version: tuple[int, int, int]) -> Content:
            return read(path)

        def read_once(path: Path) -> Content:
            stat = path.stat()
            return kept(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))

        return read_once

    return decorate
