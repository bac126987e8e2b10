"""The kinds of YAML files, and the JSON schema of each, for people and for editors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from smt_ray.config.comparison import ComparisonConfig
from smt_ray.config.fields import Section
from smt_ray.config.load import load_config, load_named, read_values
from smt_ray.config.run import RunConfig
from smt_ray.config.search import SearchConfig

FileKind = Literal["run", "search", "comparison"]

FILE_KINDS: tuple[FileKind, ...] = ("run", "search", "comparison")

_SECTIONS: dict[FileKind, type[Section]] = {
    "run": RunConfig, "search": SearchConfig, "comparison": ComparisonConfig,
}  # fmt: skip
# Only files of these kinds have the key.
_KEYS: dict[str, FileKind] = {"space": "search", "tables": "comparison"}


def kind_of(values: Mapping[str, Any]) -> FileKind:
    """The kind of a file, by its keys."""
    return next((kind for key, kind in _KEYS.items() if key in values), "run")


def load_file(path: str | Path | None, overrides: list[str], kind: FileKind | None) -> Section:
    """Loads a file of any kind.

    Args:
        path: The YAML file; None for the built-in quickstart.
        kind: The kind; None to find it by the keys of the file.

    Raises:
        UserError: The file cannot be read, or has a bad key or value.
    """
    found = kind or ("run" if path is None else kind_of(read_values(path)))
    if path is None or found == "run":
        return load_config(path, overrides)
    return load_named(_SECTIONS[found], path, overrides)


def file_schema(kind: FileKind) -> dict[str, Any]:
    """The JSON schema of a kind of file.

    No file needs a name. The base run of a search or a comparison has the keys of a run's file.
    """
    schema = _SECTIONS[kind].model_json_schema()
    _make_optional(schema, "name")
    if kind == "run":
        return schema
    run = file_schema("run")
    schema["$defs"] = {**schema.get("$defs", {}), **run.pop("$defs")}
    described = schema["properties"]["run"]
    schema["properties"]["run"] = {**run, "description": described["description"]}
    return schema


def _make_optional(schema: dict[str, Any], key: str) -> None:
    schema["required"] = [name for name in schema["required"] if name != key]
