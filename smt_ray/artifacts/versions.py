"""A cache of what was read from local files, which notices when a file changes."""

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
    """Decorates a function of a file, so that it reads each version of the file once.

    The runs of a comparison read the same rows and hash the same gigabytes of weights.

    Args:
        maxsize: The number of files whose contents are kept; those used last are kept.
    """

    def decorate(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
        @lru_cache(maxsize)
        def kept(path: Path, _version: Version) -> Content:
            return read(path)

        def read_once(path: Path) -> Content:
            version = file_version(path)
            return read(path) if version is None else kept(path, version)

        return read_once

    return decorate
