"""YAML + ``key=value`` overrides -> one validated, frozen :class:`RunConfig`."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from smt_ray.config.fields import Section, role_of
from smt_ray.config.run import RunConfig
from smt_ray.errors import UserError

QUICKSTART = "quickstart"

S = TypeVar("S", bound=BaseModel)


def load_config(path: str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Reads one run's configuration.

    Args:
        path: A YAML file; None for the built-in quickstart.
        overrides: ``key.sub=value`` items, the value in YAML, applied in order.

    Raises:
        UserError: The file cannot be read, is no mapping, or has a bad key or value.
    """
    if path is None:
        text, stem = (
            resources.files("smt_ray.config").joinpath("quickstart.yaml").read_text(),
            QUICKSTART,
        )
        source = "the quickstart config"
    else:
        text, stem, source = _read(Path(path)), Path(path).stem, str(path)
    values = _parse(text, source)
    apply_overrides(values, overrides)
    if values.get("name") is not None:
        return validate_config(values)
    safe_stem = re.sub(r"[^A-Za-z0-9._-]", "-", stem)
    return validate_config({**values, "name": f"{safe_stem}-{semantic_digest(values)[:6]}"})


def semantic_digest(values: Mapping[str, Any]) -> str:
    """A hash for names: another config makes another run, and the same one is found again.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    tree = validate_config({**values, "name": "unnamed"}).semantic_tree()
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def read_values(path: str | Path) -> dict[str, Any]:
    """The plain values of a YAML file.

    Raises:
        UserError: It cannot be read or is no mapping.
    """
    return _parse(_read(Path(path)), str(path))


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Sets ``key.sub=value`` items in a plain config, in place and in order.

    Raises:
        UserError: An item is no ``key=value``, or its key leads through a value.
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
    """Plain values as a section of its own, such as a comparison.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        raise _explain(error, section) from None


def with_settings(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a plain config in which dotted keys are set to values.

    Raises:
        UserError: A key leads through a value.
    """
    items = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return apply_overrides(copy.deepcopy(dict(values)), items)


def validate_member(values: Mapping[str, Any], group: str) -> RunConfig:
    """A run of a comparison or a search, named after the group, its method and what it is.

    Raises:
        UserError: A key is unknown or a value breaks its rule.
    """
    name = f"{group}-{values.get('method', 'smt')}-{semantic_digest(values)[:8]}"
    return validate_config({**values, "name": name})


def load_named(section: type[S], path: str | Path, overrides: Iterable[str]) -> S:
    """Reads a section that has a file of its own, such as a comparison; its name is the file's.

    Args:
        section: The pydantic model; it has a field ``name``.
        path: The YAML file.
        overrides: ``key.sub=value`` items, such as ``run.storage=...``.

    Raises:
        UserError: The file cannot be read, or has a bad key or value.
    """
    values = apply_overrides(read_values(path), overrides)
    values.setdefault("name", Path(path).stem)
    return validate_section(section, values)


def is_execution_key(key: str) -> bool:
    """Whether a dotted key of a run changes none of its results; False of one that there is not."""
    return any(role_of(field) == "execution" for field in _fields(key.split("."), RunConfig))


def to_yaml(config: Section) -> str:
    """A complete configuration, defaults included, as YAML."""
    return values_to_yaml(config.model_dump(mode="json"))


def values_to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            "CONFIG",
            f"must be a readable YAML file ({reason})",
            got=str(path),
            fix="check the path",
        ) from None


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())  # it comes with line breaks and a pointer
        raise UserError(source, f"must be valid YAML ({reason})") from None
    if not isinstance(values, dict):
        raise UserError(source, "must hold a mapping of config keys", got=type(values).__name__)
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats and unique keys: PyYAML reads 1e-4 as a string and keeps the last key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a key that stands in it twice is an error."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(
            "override", "must be key=value", got=override, fix="e.g. training.max_steps=10"
        )
    *parents, leaf = key.split(".")
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
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise UserError(key, "must be a YAML value", got=text) from None


def _explain(error: ValidationError, root: type[BaseModel]) -> UserError:
    first, num_others = _choose(error)
    if isinstance(said := first.get("ctx", {}).get("error"), UserError):
        return said  # by a section's own check, which names the field
    location = _location(first)
    field = ".".join(str(part) for part in location) or "config"
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], root)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        fix = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(known)}"
        return UserError(field, "unknown key", got=first["input"], fix=fix)
    if first["type"] == "missing":
        return UserError(field, "must be set", got=None, fix=f"add {field} to the config")
    message = first["msg"].removeprefix("Value error, ")
    others = f"; {num_others} more" if num_others else ""
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return UserError(field, message + others)  # the message names its own fields and values
    return UserError(field, message + others, got=first["input"], fix=_hint(location, root))


def _choose(error: ValidationError) -> tuple[ErrorDetails, int]:
    """The first error, and how many there are elsewhere.

    A union reports each of its branches: the one that led furthest in is what was meant.
    """
    errors = error.errors()
    place = _location(errors[0])
    here = [other for other in errors if _location(other)[: len(place)] == place]
    elsewhere = {tuple(_location(other)) for other in errors if other not in here}
    return max(here, key=lambda e: len(_location(e))), len(elsewhere)


def _location(error: ErrorDetails) -> list[int | str]:
    """The keys that lead to an error, without pydantic's names of a union's branches."""
    branches = ("int", "str", "bool", "HubSource")
    return [
        part
        for part in error["loc"]
        if isinstance(part, int) or ("[" not in part and part not in branches)
    ]


def _known_keys(location: list[int | str], root: type[BaseModel]) -> list[str]:
    """The keys of the section at a location."""
    section = root
    for field in _fields(location, root):
        section = next(_sections(field.annotation), section)
    return list(section.model_fields)


def _hint(location: list[int | str], root: type[BaseModel]) -> str:
    """The field's own description, which says its unit and what it is for."""
    fields = _fields(location, root)
    return " ".join((fields[-1].description or "").split()) if fields else ""


def _fields(location: Sequence[int | str], root: type[BaseModel]) -> list[FieldInfo]:
    """The fields that a location leads through; places in lists are none."""
    found: list[FieldInfo] = []
    section: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return []
        found.append(section.model_fields[part])
        section = next(_sections(found[-1].annotation), None)
    return found


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field may hold, such as HubSource in ``list[str | HubSource]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
