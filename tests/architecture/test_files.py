"""Claims about the names and sizes of files and functions."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40  # without the docstring
MAX_PIPELINE_LINES = 80

# Exceptions: name -> the length that is allowed, and the reason. Lengths may only become smaller.
LONG_FILES: dict[str, tuple[int, str]] = {}
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}
MAX_FILES_A_FOLDER = 15
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def function_lengths(sources: Any) -> dict[str, int]:
    return {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1 - docstring_length(node)
        for module in sources.files
        for node in ast.walk(sources.tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def docstring_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len((ast.get_docstring(function, clean=False) or "").splitlines())


def file_lengths(sources: Any) -> dict[str, int]:
    return {name: len(file.read_text().splitlines()) for name, file in sources.files.items()}


@pytest.mark.parametrize(
    ("lengths", "limit", "allowed"),
    [
        (file_lengths, MAX_FILE_LINES, LONG_FILES),
        (function_lengths, MAX_FUNCTION_LINES, LONG_FUNCTIONS),
    ],
    ids=["files", "functions"],
)
def test_lengths_stay_within_their_budget(
    sources: Any, lengths: Any, limit: int, allowed: dict[str, tuple[int, str]]
) -> None:
    found = {name: lines for name, lines in lengths(sources).items() if lines > limit}
    too_long = {name: n for name, n in found.items() if n > allowed.get(name, (limit, ""))[0]}
    assert not too_long, f"split them (at most {limit} lines)"
    assert set(allowed) <= set(found), "drop the exceptions that are no longer needed"
    assert all(reason for _, reason in allowed.values())


def test_pipeline_scripts_are_short(sources: Any) -> None:
    scripts = {k: n for k, n in file_lengths(sources).items() if k.startswith("pipelines.")}
    assert scripts
    assert not {name: n for name, n in scripts.items() if n > MAX_PIPELINE_LINES}


def test_no_folder_has_too_many_files(root: Path) -> None:
    """``__init__.py`` does not count."""
    folders = Counter(
        file.parent.relative_to(root)
        for file in root.glob("smt_ray/**/*.py")
        if file.name != "__init__.py"
    )
    assert folders
    assert not {str(name): n for name, n in folders.items() if n > MAX_FILES_A_FOLDER}


def test_no_file_or_folder_has_a_vague_name(root: Path) -> None:
    folders = ("smt_ray", "pipelines", "tests", "benchmarks")
    paths = [path for folder in folders for path in (root / folder).rglob("*")]
    assert paths
    assert not [str(p) for p in paths if p.suffix in (".py", "") and p.stem in VAGUE_NAMES]


def test_no_folder_is_named_like_a_dependency(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[\w-]+", item)[0].replace("-", "_").lower() for item in wanted}  # type: ignore[index]
    folders = {p.name for p in root.iterdir() if p.is_dir()}
    folders |= {p.name for p in (root / "smt_ray").rglob("*") if p.is_dir()}
    assert {"ray", "torch"} <= names
    # smt_ray.peft is named after the library that it extends, as users look for it.
    assert folders & names == {"peft"}


def test_every_package_and_pipeline_has_a_docstring(sources: Any) -> None:
    for name, file in sources.files.items():
        if file.name == "__init__.py" or name.startswith("pipelines."):
            assert ast.get_docstring(sources.tree(name)), name
