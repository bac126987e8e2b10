"""A CRD's structural schema as a JSON schema that refuses fields that a cluster would drop."""

from __future__ import annotations

from typing import Any

import jsonschema

_KEPT = (
    "type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
    "maxItems", "required", "anyOf",
)  # fmt: skip
_UNDERSTOOD = {
    *_KEPT, "properties", "items", "additionalProperties", "nullable", "default", "format",
    "description", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type",
    "x-kubernetes-validations",  # CEL: not evaluated here
}  # fmt: skip


def served_schema(crd: dict[str, Any], api_version: str) -> dict[str, Any]:
    """The schema of one version of a CRD, unchanged.

    Raises:
        LookupError: The CRD does not serve this version.
    """
    group, _, wanted = api_version.partition("/")
    for version in crd["spec"]["versions"]:
        if (crd["spec"]["group"], version["name"]) == (group, wanted) and version["served"]:
            schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
            return schema
    raise LookupError(f"{crd['spec']['names']['kind']} is not served as {api_version}")


def at(schema: dict[str, Any], *path: str) -> dict[str, Any]:
    """A part of a schema, by property names; ``[]`` steps into a list's items."""
    for step in path:
        schema = schema["items"] if step == "[]" else schema["properties"][step]
    return schema


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, but an object may have no other properties than the named ones.

    Raises:
        ValueError: The schema has an unknown keyword, which would not be checked.
    """
    if unknown := set(schema) - _UNDERSTOOD:
        raise ValueError(f"unknown keywords {sorted(unknown)}")
    made = {key: schema[key] for key in _KEPT if key in schema}
    if "items" in schema:
        made["items"] = strict(schema["items"])
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        made["additionalProperties"] = strict(values)
    elif "properties" in schema:
        made["properties"] = {k: strict(v) for k, v in schema["properties"].items()}
        made["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("nullable"):
        return {"anyOf": [{"type": "null"}, made]}
    return made


def find_errors(schema: dict[str, Any], value: Any) -> list[str]:
    """The errors of a value by a strict schema: one line for each, with its place."""
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
