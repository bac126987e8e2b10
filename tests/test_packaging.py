"""Claims about the files of an installed package."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def package_data() -> dict[str, list[str]]:
    """Package -> the patterns of its files that an install copies besides Python's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns: dict[str, list[str]] = project["tool"]["setuptools"]["package-data"]
    return patterns


def test_every_file_of_the_package_is_installed(package_data: dict[str, list[str]]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "smt_ray"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    data = {ROOT / name for name in tracked if not name.endswith(".py")}
    installed = {
        file
        for package, patterns in package_data.items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert data
    assert data <= installed


def test_every_pattern_belongs_to_a_package_and_matches_a_file(
    package_data: dict[str, list[str]],
) -> None:
    for package, patterns in package_data.items():
        folder = ROOT.joinpath(*package.split("."))
        assert (folder / "__init__.py").is_file(), package
        assert all(any(folder.glob(pattern)) for pattern in patterns), package
