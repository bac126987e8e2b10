"""Claims about imports: they follow the layers, and few modules may import a heavy library."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from typing import Any

import pytest

# A subpackage may import only those of lower layers; those of one layer do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("pipelines", "__main__"),
    ("cli",),
    ("comparison", "search"),
    ("grid",),
    ("run",),
    ("stages",),
    ("planning", "warmup"),  # planning runs training's loss on empty tensors
    ("probe",),  # it runs training's loss and evaluation's batches on small models
    ("training", "evaluation"),
    ("methods",),
    ("peft",),
    ("models", "data", "cluster", "places"),
    ("builtin", "smt", "artifacts", "tracking", "reporting"),
    ("documents", "config"),
    ("errors", "file_rights", "imports", "names", "yaml_values"),
)
# The folders of a subpackage may import only those of lower layers, too.
FOLDERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "reporting": (("pages",), ("charts", "text")),
}
# The subpackages that each leaf may import.
LEAVES = {
    "errors": set(),
    "imports": set(),
    "names": set(),
    "file_rights": set(),
    "yaml_values": set(),
    "config": {"errors", "names", "yaml_values"},
    "documents": {"errors"},
    "smt": {"errors", "file_rights"},
    "artifacts": {"errors", "names", "documents"},
    "tracking": {"errors", "imports", "config", "documents"},
    "reporting": {"errors", "documents"},
}

# The only modules that may import a library, at the top or in a function.
IMPORTERS = {
    "ray": tuple(
        f"smt_ray.{name}" for name in ("cluster", "stages", "run", "grid", "comparison", "search")
    ),
    "mlflow": ("smt_ray.tracking.mlflow_tracker", "smt_ray.tracking.mlflow_model"),
    "deepspeed": ("smt_ray.training.engine",),
    "datasets": ("smt_ray.data.hub", "smt_ray.data.arrow"),
    "peft": ("smt_ray.methods", "smt_ray.peft"),
    "bitsandbytes": ("smt_ray.smt.quantised", "smt_ray.models.quantisation"),
    "lm_eval": ("smt_ray.evaluation.harness.library",),
    "typer": ("smt_ray.cli",),
    "pyarrow": ("smt_ray.artifacts", "smt_ray.data.arrow", "smt_ray.data.table"),
    "fsspec": ("smt_ray.artifacts", "smt_ray.data.files"),
    "matplotlib": ("smt_ray.reporting.charts",),
    "huggingface_hub": ("smt_ray.reporting.model_card", "smt_ray.tracking.mlflow_model"),
    "jinja2": ("smt_ray.reporting.pages.render",),
    "rich": ("smt_ray.reporting.text",),
    "pydantic": ("smt_ray.config", "smt_ray.documents"),
    "yaml": ("smt_ray.config", "smt_ray.yaml_values"),
}


def subpackage_of(module: str) -> str:
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == "smt_ray" else top


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_every_subpackage_has_a_layer(sources: Any) -> None:
    known = {name for layer in LAYERS for name in layer}
    found = {subpackage_of(name) for name in sources.files} - {""}
    assert found <= known, f"name a layer for {sorted(found - known)}"


def test_imports_go_only_to_lower_layers(sources: Any) -> None:
    depth = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    upward = [
        f"{module} imports {other}"
        for module in sources.files
        for other in sorted(sources.ours(module))
        if (mine := subpackage_of(module))
        and (theirs := subpackage_of(other)) not in ("", mine)
        and depth[theirs] <= depth[mine]
    ]
    assert not upward


def test_no_module_imports_names_from_the_package_itself(sources: Any) -> None:
    """``from smt_ray import UserError`` inside the package would hide the module of the name."""
    homes = {f"smt_ray.{name}" for layer in LAYERS for name in layer}
    hidden = [
        f"{module} imports {name}"
        for module, names in sources.imports.items()
        for name in sorted(names)
        if name.startswith("smt_ray.") and name.count(".") == 1 and name not in homes
    ]
    assert not hidden


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_imports_few_subpackages(sources: Any, leaf: str) -> None:
    members = [name for name in sources.files if subpackage_of(name) == leaf]
    assert members
    for name in members:
        imported = {subpackage_of(other) for other in sources.ours(name)}
        assert imported <= {leaf, "", *LEAVES[leaf]}, name


@pytest.mark.parametrize("subpackage", FOLDERS)
def test_imports_go_only_to_lower_folders_of_a_subpackage(sources: Any, subpackage: str) -> None:
    depth = {
        f"smt_ray.{subpackage}.{folder}": i
        for i, layer in enumerate(FOLDERS[subpackage])
        for folder in layer
    }

    def folder_of(module: str) -> str:
        return next((folder for folder in depth if within(module, (folder,))), "")

    members = [name for name in sources.files if subpackage_of(name) == subpackage]
    assert {folder_of(name) for name in members} == {"", *depth}
    upward = [
        f"{module} imports {other}"
        for module in sources.files
        for other in sorted(sources.ours(module))
        if (mine := folder_of(module))
        and (theirs := folder_of(other)) not in ("", mine)
        and depth[theirs] <= depth[mine]
    ]
    assert not upward


@pytest.mark.parametrize("module", ["smt_ray.errors", "smt_ray.imports"])
def test_the_lowest_modules_need_only_the_standard_library(sources: Any, module: str) -> None:
    assert sources.foreign(module) <= sys.stdlib_module_names


def test_imports_have_no_cycles(sources: Any) -> None:
    graph = {name: sources.ours(name) for name in sources.files}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(reversed(error.args[1]))}")


@pytest.mark.parametrize(
    ("subpackage", "allowed"),
    [
        ("smt", {"torch", "safetensors", "bitsandbytes"}),
        ("config", {"pydantic", "pydantic_core", "yaml"}),
    ],
)
def test_leaves_need_few_libraries(sources: Any, subpackage: str, allowed: set[str]) -> None:
    for name in sources.files:
        if subpackage_of(name) == subpackage:
            assert sources.foreign(name) - sys.stdlib_module_names <= allowed, name


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_is_imported_only_by_its_importers(sources: Any, library: str) -> None:
    elsewhere = [
        name
        for name in sources.files
        if library in sources.foreign(name) and not within(name, IMPORTERS[library])
    ]
    assert not elsewhere


def test_no_pickle_is_read_or_written(sources: Any) -> None:
    for name in sources.files:
        assert not sources.foreign(name) & {"pickle", "dill", "cloudpickle", "shelve"}, name
        nodes = ast.walk(sources.tree(name))
        calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        assert not {"torch.save", "torch.load"} & calls, name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ray.train as r", "ray.train"),
        ("def f():\n    import ray", "ray"),
        ("def f():\n    from ray import get", "ray"),
        ("if 1:\n    m = __import__('ray')", "ray"),
        ("from importlib import import_module\nimport_module('ray')", "ray"),
        ("from .rows import Row", "smt_ray.data.rows"),
        ("from . import rows", "smt_ray.data.rows"),
        ("from ..errors import UserError", "smt_ray.errors"),
        ("from smt_ray.run import flow", "smt_ray.run.flow"),
    ],
)
def test_lazy_and_relative_imports_are_found(read_imports: Any, source: str, expected: str) -> None:
    assert expected in set(read_imports(ast.parse(source), "smt_ray.data"))
