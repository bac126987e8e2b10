"""Claims about types, and about the two subpackages that may compare the names of methods."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import pytest

# Only these may compare names of methods; other modules use the protocol of methods.
KNOW_METHODS = ("smt_ray.methods.", "smt_ray.config.")
METHODS = {"smt", "lora", "dora", "sift", "full"}


def comparisons(tree: ast.AST) -> list[str]:
    """Comparisons with the name of a method, and prefixes of stage names, as source text."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            names = {
                leaf.value
                for side in sides
                for leaf in ast.walk(side)
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
            }
            if names & METHODS and any("method" in ast.unparse(side) for side in sides):
                found.append(ast.unparse(node))
        called = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2]
        if called == "startswith" and "evaluation" in ast.unparse(node):
            found.append(ast.unparse(node))
    return found


def test_only_methods_and_config_compare_the_names_of_methods(sources: Any) -> None:
    elsewhere = {
        name: found
        for name in sources.files
        if not name.startswith(KNOW_METHODS)
        for found in [comparisons(sources.tree(name))]
        if found
    }
    assert not elsewhere


@pytest.mark.parametrize(
    "source",
    [
        "config.method == 'smt'",
        "method in ('lora', 'dora')",
        "run.method != 'full'",
        "kind.startswith(('training', 'evaluation'))",
    ],
)
def test_a_comparison_with_the_name_of_a_method_is_found(source: str) -> None:
    assert comparisons(ast.parse(source)) == [source]


def test_mypy_checks_the_whole_package_strictly(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert settings["files"] == ["smt_ray"]
    skipped = {module for entry in settings["overrides"] for module in entry["module"]}
    assert all(module.startswith(("ray.", "bitsandbytes.")) for module in skipped)
