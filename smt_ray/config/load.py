"""Loading of configs: a YAML file and overrides become one validated, frozen config."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from smt_ray.config.explain import explain
from smt_ray.config.fields import Section, fields_along, role_of
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError
from smt_ray.yaml_values import MAX_DEPTH, parse_yaml

QUICKSTART = "quickstart"

_LONGEST = 10_000_000  # characters of a file

S = TypeVar("S", bound=BaseModel)


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Loads the configuration of one run.

    Args:
        path: The YAML file; None for the built-in quickstart.
        overrides: The ``key.sub=value`` items, whose values are YAML, applied in order.

    Raises:
        UserError: The file cannot be read, it is not a mapping, or it has a bad key or value.
    """
    if path is None:
        text = resources.files("smt_ray.config").joinpath("quickstart.yaml").read_text()
        values, stem = parse_values(text, "the quickstart config"), QUICKSTART
    else:
        values, stem = read_values(path), Path(path).stem
    apply_overrides(values, overrides)
    if values.get("name") is not None:
        return validate_config(values)
    safe_stem = re.sub(r"[^A-Za-z0-9._-]", "-", stem)
    return validate_config({**values, "name": f"{safe_stem}-{semantic_digest(values)[:6]}"})


def semantic_digest(values: Mapping[str, Any]) -> str:
    """A hash of the semantic keys, for the name of a run.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    tree = validate_config({**values, "name": "unnamed"}).semantic_tree()
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def read_values(path: str | Path) -> dict[str, Any]:
    """Reads the plain values of a YAML file.

    Raises:
        UserError: The file cannot be read, or it is not a mapping.
    """
    return parse_values(_read(Path(path)), str(path))


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Sets ``key.sub=value`` items in a plain config, in place and in order.

    Raises:
        UserError: An item is not ``key=value``, or a part of its key names a value.
    """
    for override in overrides:
        _apply(values, override)
    return values


def validate_config(values: Mapping[str, Any]) -> RunConfig:
    """Validates plain values, such as a config that crossed a process border.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    return validate_section(RunConfig, values)


def validate_section(section: type[S], values: Mapping[str, Any]) -> S:
    """Validates plain values as a section, such as a comparison.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, section) from None


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a plain config in which dotted keys are set to values.

    Raises:
        UserError: A part of a key names a value.
    """
    items = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return apply_overrides(copy.deepcopy(dict(values)), items)


def validate_member(values: Mapping[str, Any], group: str) -> RunConfig:
    """A run of a comparison or a search; its name has the group, the method and a hash.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    name = f"{group}-{values.get('method', 'smt')}-{semantic_digest(values)[:8]}"
    return validate_config({**values, "name": name})


def load_named(section: type[S], path: str | Path, overrides: Iterable[str]) -> S:
    """Loads a section that has a file of its own, such as a comparison.

    Args:
        section: The pydantic model, which has a field ``name``. The default is the file's name.
        overrides: The ``key.sub=value`` items, such as ``run.storage=...``.

    Raises:
        UserError: The file cannot be read, or has a bad key or value.
    """
    values = apply_overrides(read_values(path), overrides)
    values.setdefault("name", Path(path).stem)
    return validate_section(section, values)


def is_execution_key(key: str) -> bool:
    """Whether a dotted key of a run changes no result; False for an unknown key."""
    return any(role_of(field) == "execution" for field in fields_along(key.split("."), RunConfig))


def to_yaml(config: Section) -> str:
    """A complete configuration, defaults included, as YAML."""
    return values_to_yaml(config.model_dump(mode="json"))


def values_to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
        if len(text) > _LONGEST:
            raise ValueError(f"more than {_LONGEST:,} characters")
        return text
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            "CONFIG",
            f"must be a readable YAML file ({reason})",
            got=str(path),
            fix="check the path",
        ) from None


def parse_values(text: str, source: str) -> dict[str, Any]:
    """Parses the plain values of a YAML text.

    Args:
        source: The name of the text, for errors.

    Raises:
        UserError: The text is not YAML, or it is not a mapping.
    """
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise UserError(source, f"must be valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise UserError(source, "must hold a mapping of config keys", got=type(values).__name__)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(
            "override", "must be key=value", got=override, fix="e.g. training.max_steps=10"
        )
    *parents, leaf = key.split(".")
    if len(parents) >= MAX_DEPTH:
        raise UserError("override", f"must have at most {MAX_DEPTH} parts in its key", got=key)
    node = values
    for position, parent in enumerate(parents):
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise UserError(
                key, f"{'.'.join(parents[: position + 1])} is a value, not a section", got=child
            )
        node = child
    node[leaf] = _parse_value(key, text)


def _parse_value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(key, f"must be a YAML value ({error})", got=text) from None
