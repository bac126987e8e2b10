"""Files that the tests read: the files of the repository, and locks with exact versions."""

from __future__ import annotations

import subprocess
from pathlib import Path


def read_lock(*files: Path) -> dict[str, str]:
    """Normalised package name -> the version that lock files pin; all versions are exact."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "exact versions only"
    return {name.lower().replace("_", "-"): version for name, version in pins}


def tracked_files(folder: Path) -> list[Path]:
    """The files below a folder that git tracks or would track, without ignored files."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return [folder / name for name in sorted(done.stdout.splitlines())]
