"""One line for the user about a config that pydantic refuses."""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from smt_ray.config.fields import fields_along, sections_in
from smt_ray.errors import UserError

# Pydantic adds the name of a union's branch to the location of an error.
_BRANCHES = ("int", "float", "str", "bool", "Source", "OwnTask")


def explain(error: ValidationError, root: type[BaseModel]) -> UserError:
    """The error for the user: the field, the rule, the value and the fix.

    Args:
        root: The section that was validated.
    """
    first, num_others = _choose(error)
    own = first.get("ctx", {}).get("error")
    if isinstance(own, UserError):  # raised by the check of a section, which names its field
        return own
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
        return UserError(field, message + others)  # the message names its fields
    return UserError(field, message + others, got=first["input"], fix=_description(location, root))


def _choose(error: ValidationError) -> tuple[ErrorDetails, int]:
    """The first error, and the number of errors at other places.

    A union has an error for each of its branches. The user meant the branch whose error lies
    deepest, or whose own check failed.
    """
    errors = error.errors()
    place = _location(errors[0])
    here = [other for other in errors if _location(other)[: len(place)] == place]
    elsewhere = {tuple(_location(other)) for other in errors if other not in here}
    depth = {id(e): (len(_location(e)), e["type"] == "value_error") for e in here}
    return max(here, key=lambda e: depth[id(e)]), len(elsewhere)


def _location(error: ErrorDetails) -> list[int | str]:
    """The keys that lead to an error."""
    return [
        part
        for part in error["loc"]
        if isinstance(part, int) or ("[" not in part and part not in _BRANCHES)
    ]


def _known_keys(location: list[int | str], root: type[BaseModel]) -> list[str]:
    """The keys of the section at a location."""
    section = root
    for field in fields_along(location, root):
        section = next(sections_in(field.annotation), section)
    return list(section.model_fields)


def _description(location: list[int | str], root: type[BaseModel]) -> str:
    """The description of the field at a location, which says what the field is for."""
    fields = fields_along(location, root)
    return " ".join((fields[-1].description or "").split()) if fields else ""
