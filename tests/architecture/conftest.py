"""Fixtures that read the source tree without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def read_imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module that a source imports: at the top, in functions, or by name.

    Args:
        tree: The parsed source.
        package: The package of the source, for relative imports.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            # ``from a import b`` may name a module a.b: both are edges, the unknown one is ignored.
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield str(name.value)


class Sources:
    """All modules of the package and the pipelines, by name.

    Attributes:
        files: Module name -> its file.
        imports: Module name -> everything that it imports.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        found = sorted([*root.glob("smt_ray/**/*.py"), *root.glob("pipelines/**/*.py")])
        self.files = {self._name(file): file for file in found}
        self.imports = {
            name: set(read_imports(self.tree(name), self._package(name))) for name in self.files
        }

    def tree(self, name: str) -> ast.Module:
        """A module's parsed source."""
        return ast.parse(self.files[name].read_text(encoding="utf-8"))

    def ours(self, name: str) -> set[str]:
        """The modules of this repository that a module imports."""
        return {other for other in self.imports[name] if other in self.files and other != name}

    def foreign(self, name: str) -> set[str]:
        """The top-level names of everything else that a module imports."""
        tops = {other.partition(".")[0] for other in self.imports[name]}
        return tops - {"smt_ray", "pipelines", "", "__future__"}

    def _name(self, file: Path) -> str:
        parts = file.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _package(self, name: str) -> str:
        return name if self.files[name].name == "__init__.py" else name.rpartition(".")[0]


@pytest.fixture(scope="session")
def sources() -> Sources:
    return Sources(ROOT)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session", name="read_imports")
def _read_imports() -> object:
    return read_imports
