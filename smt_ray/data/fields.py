"""The values of a row's fields: texts, JSON values, and errors that name file, row and field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from smt_ray.errors import UserError

_PLAIN = re.compile(r"[A-Za-z_][\w-]*")  # keys that YAML reads as texts; the rest are quoted


class UnknownKeysError(Exception):
    """A row has keys that no form knows, which is an error even where bad rows are left out."""

    def __init__(self, place: str, keys: Sequence[str]) -> None:
        self.place, self.keys = place, keys

    def for_user(self) -> UserError:
        """The error for the user."""
        keys = ", ".join(k if _PLAIN.fullmatch(k) else json.dumps(k) for k in self.keys)
        return UserError(
            self.place,
            f"has keys that no form of rows knows: {keys}",
            fix=f"leave them out with data.ignore_columns: [{keys}], or name them in columns of the"
            " source",
        )


def bad_row(place: str, rule: str, got: Any, fix: str = "mend the row") -> UserError:
    """The error for a row that cannot be used, and that may be left out."""
    return UserError(place, rule, got=got, fix=f"{fix}, or set data.bad_rows to skip")


def text(value: Any, place: str) -> str:
    """The text of a field; numbers are written as in JSON.

    Args:
        value: The value.
        place: The place of the field, for errors.

    Raises:
        UserError: The value is neither a text nor a number, or it is not valid Unicode.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise bad_row(place, "must not be NaN or infinite", value, "give it a text")
        return json.dumps(value)
    if not isinstance(value, str):
        raise bad_row(place, "must be a string", value, "write the value as text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        rule = f"must be valid Unicode, and character {error.start} is half of a surrogate pair"
        raise bad_row(place, rule, value) from None
    return value


def some_text(value: Any, place: str) -> str:
    """A text that is not blank; see :func:`text`.

    Raises:
        UserError: It is blank, too.
    """
    found = text(value, place)
    if not found.strip():
        raise bad_row(place, "must not be empty", found, "give it a text")
    return found


def json_value(value: Any, place: str) -> Any:
    """A value for the chat template: it must be plain JSON, with texts in valid Unicode.

    Raises:
        UserError: It holds something else, such as a time.
    """
    if isinstance(value, str):
        return text(value, place)
    if isinstance(value, Mapping):
        return {
            text(key, place): json_value(part, f"{place}, {key}") for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [json_value(part, f"{place}, {i}") for i, part in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise bad_row(place, "must be a JSON value", value, "write it as text")


def parsed(value: Any) -> Any:
    """A JSON value, also if it is stored as a JSON text, as in tables; else the text as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
