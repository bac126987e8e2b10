"""The schemas of files accept the shipped files, and refuse typing errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from smt_ray.config.load import read_values, to_yaml
from smt_ray.config.schema import FILE_KINDS, FileKind, file_schema, kind_of, load_file
from smt_ray.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("configs/**/*.yaml"), ROOT / "smt_ray/config/quickstart.yaml"])


def problems(kind: FileKind, values: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(file_schema(kind)).iter_errors(values)]


def folder_kind(path: Path) -> FileKind:
    kinds: dict[str, FileKind] = {"tune": "search", "compare": "comparison"}
    return kinds.get(path.parent.name, "run")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_recognised_and_fits_its_schema(path: Path) -> None:
    values = read_values(path)
    assert kind_of(values) == folder_kind(path)
    assert problems(kind_of(values), values) == []


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_a_schema_is_a_schema_and_explains_every_key(kind: FileKind) -> None:
    schema = file_schema(kind)
    Draft202012Validator.check_schema(schema)
    assert "name" not in schema["required"]
    unexplained = [
        key
        for key, value in schema["properties"].items()
        if "description" not in value and "$ref" not in value and "allOf" not in value
    ]
    assert not [key for key in unexplained if "default" not in schema["properties"][key]]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("tune/tiny.yaml", "num_sample", 3),
        ("tune/tiny.yaml", "run.trainig", {}),
        ("tune/tiny.yaml", "run.seed", "three"),
        ("compare/tiny.yaml", "seed", 1),
        ("compare/tiny.yaml", "run.model.size", 1),
    ],
)
def test_a_typing_error_is_found_by_the_schema(name: str, key: str, value: Any) -> None:
    path = ROOT / "configs" / name
    values = copy.deepcopy(read_values(path))
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section[parent]
    section[last] = value
    assert problems(folder_kind(path), values)


def test_a_complete_file_of_each_kind_loads_again(tmp_path: Path) -> None:
    for name in ("tune/tiny.yaml", "compare/tiny.yaml", "smollm2_135m_math.yaml"):
        first = load_file(ROOT / "configs" / name, [], None)
        (tmp_path / "again.yaml").write_text(to_yaml(first))
        assert load_file(tmp_path / "again.yaml", [], None) == first


def test_a_given_kind_goes_before_the_keys() -> None:
    with pytest.raises(UserError, match="tables"):
        load_file(ROOT / "configs/tune/tiny.yaml", [], "comparison")
