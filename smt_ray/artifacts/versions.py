"""Versions of local files: what caches of file contents are keyed by."""

from __future__ import annotations

from pathlib import Path

Version = tuple[int, int, int]
"""The inode, modification time and size of a file."""


def file_version(path: Path) -> Version | None:
    """The version of a local file; None if it does not exist."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def versioned(path: Path) -> tuple[Path, Version | None]:
    """The key of a cache that notices when a file changes."""
    return path, file_version(path)
