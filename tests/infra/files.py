"""Files that the tests read: those that git knows, and locks with an exact version a line."""

from __future__ import annotations

import subprocess
from pathlib import Path


def read_lock(*files: Path) -> dict[str, str]:
    """Package, as its name is compared, -> the version that lock files pin; none is loose."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "exact versions only"
    return {name.lower().replace("_", "-"): version for name, version in pins}


def tracked_files(folder: Path) -> list[Path]:
    """Files below a folder that are the repository's, or will be: none that git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [folder / name for name in sorted(done.stdout.splitlines())]
