"""How a config field says what it is: semantic or execution.

A *semantic* field changes results and stands in the fingerprints of the stages that it touches; an
*execution* field (ranks, resources, storage, tracking, how rows are batched) changes none, so that
a run may go on with another value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

_ROLE = "role"


class Section(BaseModel):
    """Base of every part of the config: frozen, strict about names and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    def semantic(self) -> dict[str, Any]:
        """The section's semantic fields alone, as plain JSON values."""
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
    """``semantic`` or ``execution``; None of a field that is no part of a config."""
    extra = field.json_schema_extra
    return extra.get(_ROLE) if isinstance(extra, dict) else None


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
