"""The base class of config sections, and the two roles of their fields.

A *semantic* field changes results, and is part of the fingerprints of the stages that it affects.
An *execution* field (ranks, resources, storage, tracking, batching) changes no result, so a run can
be resumed with another value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from smt_ray.names import NAME_RULE, is_name

_ROLE = "role"
_LARGEST = 10**12  # more than any number of rows, steps, seconds or tokens


class Section(BaseModel):
    """A section of the config: frozen, and strict about names and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _not_endless(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"must be at most {_LARGEST:,}")
        return value

    def semantic(self) -> dict[str, Any]:
        """The semantic fields of the section, as plain JSON values."""
        dumped = self.model_dump(mode="json")
        return {
            name: dumped[name]
            for name, field in type(self).model_fields.items()
            if role_of(field) == "semantic"
        }


def semantic(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes results."""
    return Field(default, json_schema_extra={_ROLE: "semantic"}, **constraints)


def execution(default: Any = ..., **constraints: Any) -> Any:
    """A field that changes no result."""
    return Field(default, json_schema_extra={_ROLE: "execution"}, **constraints)


def role_of(field: FieldInfo) -> Any:
    """The role of a field, ``semantic`` or ``execution``; None for a field of another model."""
    extra = field.json_schema_extra
    return extra.get(_ROLE) if isinstance(extra, dict) else None


def check_file_name(value: str, use: str) -> str:
    """A name that can be part of a path.

    Args:
        value: The name.
        use: What the name names, such as ``a folder``; for the error.

    Raises:
        ValueError: It is no :func:`~smt_ray.names.is_name`.
    """
    if not is_name(value):
        raise ValueError(f"{NAME_RULE}, since it names {use}")
    return value


def without_none(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The values without one that is None, which has no effect, so that it is in no fingerprint."""
    return {key: value for key, value in values.items() if key != name or value is not None}


def check_only_one(section: Section, *names: str) -> None:
    """Checks that at most one of some keys has a value.

    Raises:
        ValueError: Several of them have one.
    """
    given = {name: getattr(section, name) for name in names if getattr(section, name) is not None}
    if len(given) > 1:
        found = " and ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(
            f"only one of {', '.join(names)} may be set; got {found}: set the other to null"
        )


FolderName = Annotated[str, AfterValidator(partial(check_file_name, use="a folder"))]
"""A name of a folder."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists and empty mappings stay values.

    >>> flatten({"selection": {"budget": 0.0084}, "name": "a"})
    {'selection.budget': 0.0084, 'name': 'a'}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def fields_along(location: Sequence[int | str], root: type[BaseModel]) -> list[FieldInfo]:
    """The fields that a location leads through; empty if the location does not exist.

    Args:
        location: The keys, and the indices of list items.
        root: The section at which the location starts.
    """
    found: list[FieldInfo] = []
    section: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int):
            continue
        if section is None or part not in section.model_fields:
            return []
        found.append(section.model_fields[part])
        section = next(sections_in(found[-1].annotation), None)
    return found


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field may hold, such as Source for ``list[str | Source]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def with_default(values: Any, name: str, default: Any, *, unless: str) -> Any:
    """Sets the default of one of two fields if neither is given."""
    if isinstance(values, dict) and values.get(name) is None and values.get(unless) is None:
        return {**values, name: default}
    return values
